"""Placeholders of a plan, and the texts that they are filled into: folder names, words of commands."""

from __future__ import annotations

import re
from collections.abc import Mapping

from runtime.errors import UserError
from transfer.planning.fields import Fields

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}")  # names become folder names
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def valid_name(text: str, where: str) -> str:
    """``text`` if a folder may be named so; otherwise UserError."""
    if not NAME.fullmatch(text):
        raise UserError(f"{where}: {text!r} is not a valid name: a folder is named so, use letters, digits and ._+-")
    return text


def filled(text: str, values: Mapping[str, str], where: str) -> str:
    """``text`` with the value of every {placeholder}. Raises UserError for one that is not in ``values``."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise UserError(f"{where}: unknown placeholder {match[0]}; available: {{{'}, {'.join(values)}}}")
        return values[match[1]]

    return check_one_line(PLACEHOLDER.sub(value, text), where)


def check_one_line(text: str, where: str) -> str:
    """``text`` unless it has a control character: in a batch script a line break would start a command of its own."""
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise UserError(f"{where}: {text!r} has a control character; write it on one line")
    return text


def filled_words(fields: Fields, key: str, fill: Mapping[str, str]) -> tuple[str, ...]:
    """The list of ``key`` as words of a command, placeholders filled in."""
    return tuple(filled(str(part), fill, fields.where) for part in fields.items(key, (str, int, float)))
