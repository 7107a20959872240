"""The import order: every import goes from a layer to itself or to a lower one, and no modules import in a circle.

Imports inside functions and below ``if TYPE_CHECKING`` count like any other. Engines are loaded by the name of their
module (``transfer/engines/__init__.py``), so the module that chooses an engine is below it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

# lowest first; layers of one tuple do not know each other. A module belongs to the longest name that begins its own
TRANSFER = [
    "runtime",
    "pretrain.images",  # test images are compared with pretraining images
    "convert",
    "transfer.config",
    "transfer.data",
    "transfer.evaluate",
    "transfer.engines",
    ("transfer.engines.weights", "transfer.engines.training"),
    "transfer.engines.torchvision.model",
    ("transfer.engines.torchvision", "transfer.engines.detectron2"),
    "transfer.records",
    "transfer.fine_tuning",
    "transfer.comparison",
    "transfer.literature",
    "transfer.report",
    "transfer.prediction",
    "transfer.planning.slurm",
    "transfer.planning",
    "transfer",  # the commands
]
PRETRAIN = [
    "runtime",
    "convert",  # probes read what converts
    "pretrain.images",
    "pretrain.views",
    "pretrain.batches",
    "pretrain.encoders",
    "pretrain.methods",
    "pretrain.settings",
    "pretrain.probes",
    "pretrain.training",
    "pretrain",  # the commands
]
DEMO = ["runtime", "demo"]
PACKAGES = ("runtime", "convert", "pretrain", "transfer", "demo")


def levels(order: list[str | tuple[str, ...]]) -> dict[str, int]:
    """Layer -> its place in an order."""
    return {name: i for i, entry in enumerate(order) for name in ([entry] if isinstance(entry, str) else entry)}


ORDERS = [levels(order) for order in (TRANSFER, PRETRAIN, DEMO)]
LAYERS = sorted({name for order in ORDERS for name in order}, key=len, reverse=True)


def layer_of(module: str) -> str | None:
    """The layer of a module; the command scripts' package (``pretrain``) takes what no folder below it does."""
    layer = next((name for name in LAYERS if module == name or module.startswith(f"{name}.")), None)
    if layer in ("pretrain", "transfer") and module.count(".") > 1:
        return None  # a new folder that the table above does not list
    return layer


def may_import(upper: str, lower: str) -> bool:
    """Whether a module of layer ``upper`` may import one of layer ``lower``."""
    return upper == lower or any(order[lower] < order[upper] for order in ORDERS if upper in order and lower in order)


def read_imports(root: Path) -> dict[str, set[str]]:
    """Module -> the project's modules that it imports, anywhere in its file."""
    files = {}
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        graph[module] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}, line {node.lineno}: relative import"
                below = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name in files else str(node.module) for name in below]
            graph[module] |= {name for name in names if name.split(".")[0] in PACKAGES and name != module}
    return graph


def find_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that reach each other."""

    def reachable(module: str) -> set[str]:
        seen: set[str] = set()
        todo = [module]
        while todo:
            for name in graph.get(todo.pop(), ()):
                if name not in seen:
                    seen.add(name)
                    todo.append(name)
        return seen

    reach = {module: reachable(module) for module in graph}
    circles = {frozenset({m, *(n for n in reach[m] if m in reach[n])}) for m in graph if m in reach[m]}
    return sorted(sorted(circle) for circle in circles)


@pytest.fixture(scope="module")
def imports(repo: Path) -> dict[str, set[str]]:
    return read_imports(repo)


def test_every_module_belongs_to_a_layer(imports):
    assert len(imports) > 150
    assert [module for module in imports if layer_of(module) is None] == []


def test_every_layer_exists(imports):
    used = {layer_of(module) for module in imports}
    assert [name for name in LAYERS if name not in used] == []


def test_every_import_runs_down(imports):
    wrong = [
        f"{module} -> {name}"
        for module, names in sorted(imports.items())
        for name in sorted(names)
        if not may_import(str(layer_of(module)), str(layer_of(name)))
    ]
    assert not wrong, "against the import order:\n" + "\n".join(wrong)


def test_every_imported_module_exists(imports):
    missing = [f"{module} -> {name}" for module, names in imports.items() for name in names if name not in imports]
    assert missing == []


def test_detectron2_is_imported_by_its_engine_alone(repo):
    """And by the models that a backbone is compared with on request; nothing else may need it."""
    pattern = re.compile(r"^\s*(from|import) detectron2\b", re.M)
    files = [path for package in PACKAGES for path in (repo / package).rglob("*.py")]
    users = {str(path.relative_to(repo)) for path in files if pattern.search(path.read_text())}
    engine = {name for name in users if name.startswith("transfer/engines/detectron2/")}
    assert engine
    assert users - engine == {"convert/reference_models.py"}


def test_there_are_no_circles(imports):
    assert find_circles(imports) == []


@pytest.mark.parametrize(
    ("upper", "lower", "allowed"),
    [
        ("transfer.report.page", "transfer.comparison.gap", True),
        ("transfer.comparison.leakage", "pretrain.images", True),
        ("transfer.comparison.leakage", "pretrain.views", False),
        ("transfer.comparison.gap", "transfer.report.page", False),
        ("transfer.engines.torchvision.run", "transfer.engines.detectron2.engine", False),
        ("transfer.engines.weights.loading", "transfer.engines.training.solver", False),
        ("transfer.measure", "convert.to_d2", True),
        ("pretrain.encoders.reading", "convert.conversion", True),
        ("pretrain.main", "transfer.train_net", False),
        ("pretrain.training.run", "transfer.config", False),
        ("runtime.atomic", "pretrain.images", False),
        ("demo.draw", "runtime.atomic", True),
    ],
)
def test_the_table_says_what_it_should(upper, lower, allowed):
    assert may_import(str(layer_of(upper)), str(layer_of(lower))) == allowed


def test_lazy_and_type_only_imports_count(tmp_path):
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from runtime.b import B\n"
    (tmp_path / "runtime" / "a.py").write_text(typed)
    (tmp_path / "runtime" / "b.py").write_text("def f():\n    import runtime.c\n")
    (tmp_path / "runtime" / "c.py").write_text("from runtime import a\n")
    graph = read_imports(tmp_path)
    assert graph["runtime.a"] == {"runtime.b"}
    assert find_circles(graph) == [["runtime.a", "runtime.b", "runtime.c"]]
