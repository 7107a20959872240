"""Reads a plan's YAML: data only, one document, no repeated key; every mistake is a one-line error."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from runtime.errors import UserError, suggestion
from runtime.listing import listed
from runtime.pasteable import pasteable
from runtime.strict_yaml import parse_yaml, read_yaml


def read_plan(path: Path) -> dict[str, Any]:
    """The mapping in ``path``. Raises UserError for a missing, oversized, malformed or non-mapping file."""
    if not path.is_file():
        known = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UserError(f"plan {path} does not exist" + suggest(path.name, known))
    if not (content := read_yaml(path, f"plan {path}")):
        raise UserError(f"plan {path} is empty: it must have inits, configs and seeds")
    if {"base", "groups"} <= content.keys():
        run = pasteable("pretrain/sweep.py", [path])
        raise UserError(f"plan {path} is a table of pretrainings, without fine-tuning; run it by {run}")
    return content


def check_text(value: Any, where: str) -> None:
    """Raise UserError for a NUL character anywhere in a plan: no command and no file name can hold one."""
    if isinstance(value, str) and "\0" in value:
        raise UserError(f"{where}: {value!r} holds a NUL character; remove it")
    for part in (
        [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    ):
        check_text(part, where)


def suggest(word: str, known: Collection[str]) -> str:
    """The end of an error message: the nearest known word, or the first of the known words, or nothing."""
    return suggestion(word, known) or (f"; available: {listed(sorted(known), len(known))}" if known else "")


class Fields:
    """Typed access to one mapping of a plan; remembers what was read so that unknown keys are errors."""

    def __init__(self, value: Any, where: str, known: Collection[str]) -> None:
        if not isinstance(value, Mapping):
            raise UserError(f"{where} must be a mapping, not {value!r}")
        for key in value:
            if key not in known:
                raise UserError(f"{where}: unknown key {key!r}{suggest(str(key), known)}")
        self.value, self.where = value, where

    def __contains__(self, key: str) -> bool:
        return self.value.get(key) is not None

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """The value of ``key`` if it has type ``kind`` (bool is not an int here); ``default`` when absent."""
        value = self.value.get(key)
        if value is None:
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(k.__name__ for k in kinds)
            raise UserError(f"{self.where}: {key} must be {names}, not {value!r}")
        return value

    def need(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """Like ``get``, but the key must be there."""
        if key not in self:
            raise UserError(f"{self.where}: {key} is missing")
        return self.get(key, kind)

    def items(self, key: str, kind: type | tuple[type, ...]) -> list[Any]:
        """A list whose elements have type ``kind``; empty when absent."""
        values = self.get(key, list, [])
        kinds = kind if isinstance(kind, tuple) else (kind,)
        for value in values:
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise UserError(f"{self.where}: {key} has {value!r}, expected {' or '.join(k.__name__ for k in kinds)}")
        return list(values)


def apply_settings(plan: dict[str, Any], settings: Collection[str]) -> None:
    """Apply ``KEY=VALUE`` overrides in place.

    A key whose first part is upper case (``SOLVER.MAX_ITER``) goes to the plan's ``overrides``, and is removed
    from the overrides of its configs: the command line wins. Any other key is a dotted path in the plan
    (``seeds=[0,1,2]``, ``inits.moco.lr=0.02``). Values are YAML.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UserError(f"--set {setting}: expected KEY=VALUE")
        value = parse_yaml(text, f"--set {setting}")
        is_config_key = key.split(".")[0].isupper()
        for config in _configs(plan) if is_config_key else []:
            config.pop(key, None)
        path = ["overrides", key] if is_config_key else key.split(".")
        node = plan
        for part in path[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"--set {setting}: {part} is not a mapping in the plan")
        node[path[-1]] = value


def _configs(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The overrides of the plan's configs. Malformed ones are left to the checks, which name them."""
    configs = plan.get("configs")
    entries = (
        [entry.get("overrides") for entry in configs if isinstance(entry, dict)] if isinstance(configs, list) else []
    )
    return [overrides for overrides in entries if isinstance(overrides, dict)]
