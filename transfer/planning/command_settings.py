"""The settings of a stage's command: equal for two commands that do the same, however they are written."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.listing import listed

# stages whose command ends in KEY VALUE overrides of a config; each of their flags has a value
WITH_OVERRIDES = ("train", "split")


def command_settings(kind: str, command: Sequence[str]) -> dict[str, Any]:
    """What ``command`` of a stage of ``kind`` sets: the script, its flags, and its config overrides by key.

    Neither the order of flags and keys nor the spelling of a value (``0.020``, ``--lr=1``, a tuple as a list) matters.
    Of a key that is given twice, the last counts, as in the command itself; a repeated flag keeps all its values.
    """
    script, *words = command
    settings: dict[str, Any] = {"script": script}
    if kind in WITH_OVERRIDES:
        while len(words) > 1 and words[0].startswith("--"):
            settings[words[0]] = [words[1]]
            words = words[2:]
        return {**settings, **{key: _value(text) for key, text in zip(words[::2], words[1::2])}}
    name = "arguments"
    for word in words:
        if _is_flag(word):
            name, equals, text = word.partition("=")
            settings.setdefault(name, []).extend([text] if equals else [])
        else:
            settings.setdefault(name, []).append(word)
    return settings


def differences(kind: str, before: Sequence[str], now: Sequence[str]) -> str:
    """What two commands of a stage differ in, ``KEY was X, is Y; ...``; empty if they do the same."""
    old, new = command_settings(kind, before), command_settings(kind, now)
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    return listed([f"{key} was {_shown(old.get(key))}, is {_shown(new.get(key))}" for key in keys], 6)


def override_words(overrides: Mapping[str, Any]) -> list[str]:
    """The KEY VALUE words of a command line."""
    return [
        word for key, value in overrides.items() for word in (key, value if isinstance(value, str) else repr(value))
    ]


def _is_flag(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and word[1] not in "0123456789."


def _value(text: str) -> Any:
    """A config value as the config reads it: a Python literal, tuples as lists, or the text itself."""
    try:
        return _as_lists(ast.literal_eval(text))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    words = value if isinstance(value, list) and all(isinstance(word, str) for word in value) else [value]
    return " ".join(map(str, words)) or "set"
