"""The form of a result.json: the type of each field, so that a malformed file is refused and its bad field named."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from transfer.config.protocol import PROTOCOLS

STATUSES = ("finished", "failed")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _list(value: Any) -> bool:
    return isinstance(value, list)


# Far above anything that a run records, and far below where sums and squares overflow or an int has no float.
LARGEST = 10**15


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _metric(value: Any) -> bool:
    # NaN: files of other programs may write an undefined value so, where this one writes null
    return _number(value) or (isinstance(value, float) and value != value)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _or_null(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _seconds(value: Any) -> bool:
    return _mapping(value) and all(map(_or_null(_number), value.values()))


def _data_sets(value: Any) -> bool:
    return isinstance(value, list) and all(
        _mapping(one) and _text(one.get("name")) and _or_null(_text)(one.get("sha256")) for one in value
    )


def _findings(value: Any) -> bool:
    texts = ("dataset", "kind", "example", "message")
    return isinstance(value, list) and all(
        _mapping(one) and _integer(one.get("count")) and all(_text(one.get(key)) for key in texts) for one in value
    )


def _metrics(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    tasks = value.values()
    return all(isinstance(task, dict) and all(v is None or _metric(v) for v in task.values()) for task in tasks)


def is_history(value: Any) -> bool:
    """Whether ``value`` is a list of {"iteration": int, "metrics": {task: {metric: number or null}}}."""
    return isinstance(value, list) and all(
        _mapping(entry) and _integer(entry.get("iteration")) and _metrics(entry.get("metrics", {})) for entry in value
    )


def is_changes(value: Any) -> bool:
    """Whether ``value`` is a list of {"iteration": int, "changed": {key: [before, now]}}."""
    return isinstance(value, list) and all(
        _mapping(entry) and _integer(entry.get("iteration")) and _changed(entry.get("changed")) for entry in value
    )


def _changed(value: Any) -> bool:
    return _mapping(value) and all(isinstance(pair, list) and len(pair) == 2 for pair in value.values())


# dotted path -> (check of the value, the required form in words)
FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "status": (lambda value: value in STATUSES, "finished or failed"),
    "config": (_mapping, "a mapping"),
    "config.name": (_text, "a string"),
    "config.flat": (_mapping, "a mapping"),
    "protocol": (lambda value: value in PROTOCOLS, " or ".join(PROTOCOLS)),
    "init": (_mapping, "a mapping"),
    "init.name": (_text, "a string"),
    "init.kind": (_text, "a string"),
    "init.sha256": (_or_null(_text), "a string"),
    "seed": (_integer, "an integer"),
    "engine": (_mapping, "a mapping"),
    "engine.name": (_text, "a string"),
    "engine.versions": (_mapping, "a mapping"),
    "world_size": (_integer, "an integer"),
    "changes": (is_changes, "a list of changed settings"),
    "datasets": (_mapping, "a mapping"),
    "datasets.train": (_data_sets, "a list of data sets"),
    "datasets.test": (_data_sets, "a list of data sets"),
    "findings": (_findings, "a list of findings"),
    "backbone_sha256": (lambda value: value is None or _text(value), "a string or null"),
    "iterations": (_integer, "an integer"),
    "seconds_per_iteration": (_number, "a number"),
    "metrics": (_metrics, "numbers by task and metric"),
    "history": (is_history, "a list of evaluations"),
    "detections": (_names, "a list of file names"),
    "evaluator": (_text, "a string"),
    "seconds": (_or_null(_seconds), "numbers by part"),
    "provenance": (_or_null(_mapping), "a mapping"),
    "provenance.argv": (_or_null(_list), "a list of words"),
    "provenance.git": (_or_null(_mapping), "a mapping"),
    "provenance.git.commit": (_or_null(_text), "a string"),
    "provenance.hardware": (_or_null(_mapping), "a mapping"),
    "provenance.hardware.gpus": (_or_null(_list), "a list"),
    "hardware": (_or_null(_mapping), "a mapping"),
    "hardware.gpus": (_or_null(_list), "a list"),
}


def result_problem(content: Any, needs: Iterable[str] = ()) -> str | None:
    """What is wrong with a parsed result.json, or None; the fields ``needs`` must be present."""
    if not _mapping(content):
        return f"it is a {type(content).__name__}, not a mapping"
    for path, (fits, form) in FORMS.items():
        exists, value = _look_up(content, path)
        if exists and not fits(value):
            return f"{path} is not {form}"
    for path in needs:
        if not _look_up(content, path)[0]:
            return f"it has no {path}"
    return None


def _look_up(content: Any, path: str) -> tuple[bool, Any]:
    for key in path.split("."):
        if not _mapping(content) or key not in content:
            return False, None
        content = content[key]
    return True, content
