"""Configs written by others: the MoCo repository's and Detectron2's load unchanged, and the docs say where they run."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from convert.preprocessing import IMAGENET
from runtime.errors import UserError
from tests.transfer.config.moco_configs import MOCO_CONFIGS, write_moco_configs
from transfer.config import ADDED, OWN_PREFIX, flatten, load_config
from transfer.engines.training.checks import check_values
from transfer.fine_tuning.initialisation import Init, apply_settings

ROW = re.compile(r"\| (?P<folder>[\w.-]+) \| (?P<names>[\w., -]+) \| (?P<verdict>.+) \|")


def documented(repo: Path) -> dict[tuple[str, str], str]:
    """(folder, config) -> what docs/transfer.md says about the embedded engine."""
    section = (repo / "docs" / "transfer.md").read_text().split("## Which of Detectron2's own configs run where")[1]
    found: dict[tuple[str, str], str] = {}
    for row in ROW.finditer(section):
        if row["folder"] != "folder":
            for name in row["names"].split(", "):
                assert (row["folder"], name) not in found, name
                found[row["folder"], name] = row["verdict"].strip()
    return found


def verdict(file: Path) -> str:
    """What becomes of a file: "yes", or the key that the embedded engine names."""
    from transfer.engines.torchvision.support import check_support  # imports torchvision

    cfg = load_config(file)
    check_values(cfg, 1, train=True)
    try:
        check_support(cfg)
    except UserError as error:
        found = re.match(r"(\S+) (.+) is not supported by engine torchvision", str(error))
        if found is None:
            return str(error)
        return f"no: `{found[1]}`" + ("" if found[2] == "True" else f" `{found[2]}`")
    return "yes"


@pytest.fixture(scope="module")
def moco(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_moco_configs(tmp_path_factory.mktemp("moco"))


@pytest.mark.parametrize("name", MOCO_CONFIGS)
def test_the_moco_configs_load_with_every_key_and_run(name: str, moco: dict[str, Path], repo: Path) -> None:
    values = flatten(load_config(moco[name]))
    base: str | None = name
    seen: dict[str, Any] = {}
    while base is not None:
        base, keys = MOCO_CONFIGS[base]
        seen = {**keys, **seen}
    for key, value in seen.items():
        wanted = list(ast.literal_eval(value)) if isinstance(value, str) and value.startswith("(") else value
        assert values[key] == wanted, key
    assert verdict(moco[name]) == documented(repo)["MoCo", name] == "yes"


@pytest.mark.parametrize(
    ("theirs", "ours"), [("pascal_voc_R_50_C4_24k_moco", "voc_R50_C4"), ("coco_R_50_C4_2x_moco", "coco_R50_C4_2x")]
)
def test_this_projects_configs_are_the_moco_configs(theirs: str, ours: str, moco: dict[str, Path]) -> None:
    cfg = load_config(ours)
    apply_settings(cfg, Init("moco", settings=IMAGENET.config()), {})
    cfg.MODEL.WEIGHTS = "See Instructions"
    assert flatten(cfg) == flatten(load_config(moco[theirs]))


def test_the_moco_configs_are_documented(repo: Path) -> None:
    assert {name for folder, name in documented(repo) if folder == "MoCo"} == set(MOCO_CONFIGS)


@pytest.mark.detectron2
def test_the_documented_table_is_what_the_engine_says(repo: Path) -> None:
    from detectron2 import model_zoo

    folder = Path(model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml")).parents[1]
    files = {(f.parent.name if f.parent != folder else "bases", f.stem): f for f in sorted(folder.rglob("*.yaml"))}
    assert len(files) > 80
    table = {entry: said for entry, said in documented(repo).items() if entry[0] != "MoCo"}
    assert table == {entry: verdict(file) for entry, file in files.items()}


@pytest.mark.detectron2
def test_the_detectron2_engine_takes_all_but_other_tasks() -> None:
    from detectron2 import model_zoo

    from transfer.engines.detectron2.support import OTHER_TASKS, check_support

    folder = Path(model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml")).parents[1]
    refused, taken = set(), 0
    for file in sorted(folder.rglob("*.yaml")):
        cfg = load_config(file)
        if cfg.MODEL.META_ARCHITECTURE in OTHER_TASKS:
            refused.add(cfg.MODEL.META_ARCHITECTURE)
            with pytest.raises(UserError, match="Detectron2's own script"):
                check_support(cfg)
        else:
            check_support(cfg)
            taken += 1
    assert refused == set(OTHER_TASKS)
    assert taken > 55


@pytest.mark.detectron2
@pytest.mark.parametrize("name", MOCO_CONFIGS)
def test_the_moco_configs_load_to_detectron2s_values(name: str, moco: dict[str, Path]) -> None:
    from detectron2.config import get_cfg

    theirs = get_cfg()
    theirs.merge_from_file(str(moco[name]))
    ours = flatten(load_config(moco[name]))
    own = {key for key in ours if key.startswith(OWN_PREFIX) or key in ADDED}
    assert flatten(theirs) == {key: value for key, value in ours.items() if key not in own}
