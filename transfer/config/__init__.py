"""Configuration: Detectron2's schema on fvcore's CfgNode, read from safe YAML only.

A config is a YAML file with keys of ``transfer.config.schema.KEYS`` and an optional ``_BASE_``: a relative path, the
name of a file in ``configs/``, or a list of them. Unknown keys, duplicate keys, Python tags and addresses as bases are
errors that name file and key.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from runtime.errors import UserError, suggestion
from runtime.repository import data_folder
from runtime.strict_yaml import read_yaml
from transfer.config.schema import ADDED, KEYS, LATER, OWN_PREFIX, PART_OF, Support

CONFIG_FOLDER = data_folder("configs")
BASE_KEY = "_BASE_"
# the one Python expression in Detectron2's configs, of Base-RetinaNet.yaml, and its value
RETINANET_SIZES = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"
EXPRESSIONS = {RETINANET_SIZES: [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in [32, 64, 128, 256, 512]]}
MAX_FILES = 64  # of one config and its bases; Detectron2's longest chain has four
# where a run starts from and where it is written; not part of what the run measures
RUN_KEYS = ("MODEL.WEIGHTS", "SEED", "OUTPUT_DIR", "ENGINE.FEATURE_FOLDER")


def default_config() -> CfgNode:
    """All keys at their defaults, not frozen."""
    tree: dict[str, Any] = {}
    for name, key in KEYS.items():
        node = tree
        *parents, leaf = name.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = copy.deepcopy(key.default)
    return CfgNode(tree)


def resolve_config(name: str | Path) -> Path:
    """The file of a config: an existing path, or a bare name (with or without .yaml) in ``configs/``."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.name == str(name):
        for candidate in (CONFIG_FOLDER / path.name, CONFIG_FOLDER / f"{path.name}.yaml"):
            if candidate.is_file():
                return candidate
    if path.is_dir():
        beside = path / "config.yaml"
        raise UserError(f"config {name} is a folder; name {beside if beside.is_file() else 'a YAML file'}")
    if path.name == str(name):
        known = sorted(p.name for p in CONFIG_FOLDER.glob("*.yaml"))
        hint = suggestion(path.name, known)
        raise UserError(f"config {name}: no such file, and none of that name in {CONFIG_FOLDER}{hint}")
    raise UserError(f"config {name}: no such file")


def load_config(name: str | Path, opts: Sequence[str] = ()) -> CfgNode:
    """The defaults, overridden by a config file and its bases, then by ``opts`` (KEY VALUE KEY VALUE ...).

    Values in ``opts`` are Python literals or plain strings. Not frozen: the caller freezes it. Raises UserError for a
    file that does not exist or is not safe YAML, an unknown key and a value of the wrong type.
    """
    file = resolve_config(name)
    cfg = default_config()
    written = _read_yaml_with_bases(file)
    for key, _ in _leaves(written):
        _check_known(key, f"config {file}")
    try:
        cfg.merge_from_other_cfg(CfgNode(written))
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(f"config {file}: {_first_line(error)}") from error
    if KEYS["VERSION"].default != cfg.VERSION:
        raise UserError(f"config {file}: VERSION {cfg.VERSION} is an older schema; convert the file to VERSION 2")
    merge_opts(cfg, opts)
    return cfg


def merge_opts(cfg: CfgNode, opts: Sequence[str]) -> None:
    """Override keys of ``cfg`` in place by command-line pairs; raises UserError naming the wrong key."""
    if flags := [word for word in opts if word.startswith("--")]:
        raise UserError(f"{flags[0]} must come before the KEY VALUE overrides")
    if len(opts) % 2:
        raise UserError(f"overrides are pairs KEY VALUE; the last one has no value: {opts[-1]}")
    for key, value in zip(opts[::2], opts[1::2]):
        _check_known(key, "command line")
        try:
            cfg.merge_from_list([key, value])
        except (ValueError, KeyError, AssertionError, AttributeError) as error:
            raise UserError(f"option {key} {value}: {_first_line(error)}") from error


def explicit_keys(name: str | Path, opts: Sequence[str] = ()) -> dict[str, str]:
    """Leaf keys that the file, its bases or ``opts`` set explicitly -> where ("config FILE" or "command line")."""
    file = resolve_config(name)
    where = {key: f"config {file.name}" for key, _ in _leaves(_read_yaml_with_bases(file))}
    where.update(dict.fromkeys(opts[::2], "command line"))
    return where


def flatten(cfg: CfgNode) -> dict[str, Any]:
    """Leaf key -> value in JSON-able form (tuples become lists), in sorted order."""
    return {key: json.loads(json.dumps(value)) for key, value in sorted(_leaves(cfg))}


def recipe(cfg: CfgNode) -> dict[str, Any]:
    """``flatten`` without ``RUN_KEYS``: what two runs must share to be comparable.

    Keys of ``LATER`` are left out at their defaults: a run from before there was such a key has the same recipe.
    """
    unused = LATER.keys() - changed_keys(cfg).keys()
    return {key: value for key, value in flatten(cfg).items() if key not in RUN_KEYS and key not in unused}


def later_defaults() -> dict[str, Any]:
    """The defaults of the keys of ``LATER``, which ``recipe`` leaves out, in its form."""
    return {key: json.loads(json.dumps(value)) for key, value in LATER.items()}


def config_sha256(cfg: CfgNode) -> str:
    """Digest of ``recipe``, independent of the order of keys and of which of them were set explicitly."""
    return hashlib.sha256(json.dumps(recipe(cfg), sort_keys=True).encode()).hexdigest()


def dump_config(cfg: CfgNode) -> str:
    """YAML text that loads to an equal config, also in Detectron2 if this project's own keys have their defaults."""
    tree = copy.deepcopy({section: value for section, value in cfg.items() if section != "VERSION"})
    changed = changed_keys(cfg)
    if not any(key.startswith(OWN_PREFIX) for key in changed):
        tree.pop(OWN_PREFIX.rstrip("."), None)
    for key in ADDED:
        if key not in changed:
            _remove(tree, key.split("."))
    return CfgNode({"VERSION": cfg.VERSION, **tree}).dump(sort_keys=False)


def _remove(tree: dict[str, Any], path: list[str]) -> None:
    """Remove the leaf at ``path``, and the sections that it leaves empty."""
    if path[1:]:
        _remove(tree[path[0]], path[1:])
    if not path[1:] or not tree[path[0]]:
        del tree[path[0]]


def changed_keys(cfg: CfgNode) -> dict[str, Any]:
    """Leaf keys whose value differs from the default."""
    return {key: value for key, value in _leaves(cfg) if _plain(value) != _plain(KEYS[key].default)}


def unsupported_keys(cfg: CfgNode, support: Support = "default only") -> dict[str, Any]:
    """Keys with that ``support`` by the embedded engine that differ from their default, with their values.

    Without those that describe a feature which is switched off (``schema.PART_OF``): nothing reads them.
    """
    values = flatten(cfg)
    changed = {key: value for key, value in changed_keys(cfg).items() if KEYS[key].embedded == support}
    return {key: value for key, value in changed.items() if key not in PART_OF or values[PART_OF[key]]}


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_known(key: str, where: str) -> None:
    if key in KEYS:
        return
    if any(known.startswith(f"{key}.") for known in KEYS):
        raise UserError(f"{where}: {key} is a section, not a key; set the keys below it")
    raise UserError(f"{where}: unknown key {key}{suggestion(key, list(KEYS))}")


def _first_line(error: BaseException) -> str:
    text = str(error.args[0] if error.args else error).strip().split("\n")[0]
    if "Type mismatch" in text:  # yacs requires the default's type: 1.0 and not 1, (640,) and not 640
        text += " (write floats with a point, tuples with a comma)"
    return text


def _read_yaml_with_bases(file: Path, derived: tuple[Path, ...] = (), read: list[Path] | None = None) -> dict[str, Any]:
    """Keys of ``file`` and its bases; ``derived`` are the files whose base it is, for the detection of circles.

    ``read`` lists the files read so far: two bases of two bases each multiply.
    """
    read = [] if read is None else read
    read.append(file)
    if len(read) > MAX_FILES:
        raise UserError(f"config {read[0]}: its {BASE_KEY} chain reads more than {MAX_FILES} files")
    if file.resolve() in derived:
        circle = [*derived[derived.index(file.resolve()) :], file]
        raise UserError(f"config {file}: circular {BASE_KEY}: {' -> '.join(path.name for path in circle)}")
    # Detectron2's own dumps have aliases of flat lists
    written = read_yaml(file, f"config {file}", aliases=True, known=EXPRESSIONS)
    bases = written.pop(BASE_KEY, [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or "://" in base:
            raise UserError(f"config {file}: {BASE_KEY} must be a local file, not {base}")
        path = _base_path(file, Path(base).expanduser())
        _merge_into(merged, _read_yaml_with_bases(path, (*derived, file.resolve()), read), path)
    _merge_into(merged, written, file)
    return merged


def _base_path(file: Path, base: Path) -> Path:
    """``base`` relative to ``file``; a bare name that is not there is looked up in ``configs/``."""
    shipped = CONFIG_FOLDER / base
    for path in (file.parent / base, *([shipped] if base.name == str(base) else [])):
        if path.is_file():
            return path
    elsewhere = f", and there is none in {CONFIG_FOLDER}" if base.name == str(base) else ""
    raise UserError(f"config {file}: its {BASE_KEY} {file.parent / base} does not exist{elsewhere}")


def _merge_into(target: dict[str, Any], source: dict[str, Any], file: Path) -> None:
    for key, value in source.items():
        if isinstance(value, dict) and key in target:
            if not isinstance(target[key], dict):
                raise UserError(f"config {file}: {key} is a section here and a value in its base")
            _merge_into(target[key], value, file)
        else:
            target[key] = value
