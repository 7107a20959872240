"""The one reader of YAML files: plans and configs are plain data of bounded size.

Tags that build objects are refused, as is a key given twice (the later one would silently erase the earlier block).
An alias (``*name``) may stand for a value or a flat list only, as in the configs that Detectron2 writes: aliases of
aliases expand exponentially, and one inside its own anchor never ends. Depth and number of values are limited.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from runtime.errors import UserError

MAX_BYTES = 1 << 20  # a plan or config is a page long; a megabyte of YAML is some other file
MAX_VALUES = 20_000  # aliases counted as what they stand for
MAX_DEPTH = 30
MAX_NUMBER = 100  # characters of an unquoted word that could be a number
EVALUATED = "tag:yaml.org,2002:python/object/apply:eval"  # of Python expressions in configs of Detectron2
NO_EXPRESSIONS: Mapping[str, Any] = {}


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML within the limits above."""

    def __init__(self, text: str, aliases: bool, known: Mapping[str, Any]) -> None:
        super().__init__(text)
        self._may_alias, self._known = aliases, known
        self._depth = self._values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose one node; an error for an alias of anything nested, and for too many or too deep values."""
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            self._count(self._aliased(mark), mark)
            return super().compose_node(parent, index)
        self._count(1, mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ConstructorError(None, None, f"more than {MAX_DEPTH} levels of nesting", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _aliased(self, mark: yaml.Mark) -> int:
        """How many values the alias that comes next stands for."""
        if not self._may_alias:
            raise ConstructorError(None, None, "aliases are not used in plans", mark)
        node = self.anchors.get(self.peek_event().anchor)
        items = node.value if isinstance(node, yaml.CollectionNode) else []
        is_flat = not isinstance(node, yaml.MappingNode) and all(isinstance(item, yaml.ScalarNode) for item in items)
        is_inside = isinstance(node, yaml.CollectionNode) and node.end_mark is None  # its anchor is still being read
        if not is_flat or is_inside:
            raise ConstructorError(None, None, "an alias may stand for a value or a flat list only", mark)
        return 1 + len(items)

    def _count(self, values: int, mark: yaml.Mark) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise ConstructorError(None, None, f"more than {MAX_VALUES} values", mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a dict; a repeated key, and a key that is itself a list or mapping, is an error that names it."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                raise ConstructorError(None, None, "a key must be a plain word", key_node.start_mark)
            if key_node.value in seen:
                raise ConstructorError(None, None, f"duplicate key {key_node.value[:80]}", key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build a value; an error for a number of more digits than any number here has."""
        numeric = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if numeric and len(node.value) > MAX_NUMBER:  # 1:1:1:... is a number to base 60, at a quadratic cost
            raise ConstructorError(None, None, f"a number of {len(node.value)} characters", node.start_mark)
        if node.tag == EVALUATED and isinstance(node, yaml.SequenceNode) and len(node.value) == 1:
            text = node.value[0].value
            if isinstance(text, str) and text in self._known:
                return copy.deepcopy(self._known[text])
        return super().construct_object(node, deep)


def parse_yaml(text: str, where: str, *, aliases: bool = False, known: Mapping[str, Any] = NO_EXPRESSIONS) -> Any:
    """The value of a YAML document. Raises UserError that begins with ``where`` and, if known, the line.

    ``known``: Python expressions whose values are known; they are replaced, never evaluated, and others are errors.
    """
    try:
        return _StrictLoader(text, aliases, known).get_single_data()
    except ConstructorError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{where}{line} cannot be read: {error.problem}; only plain YAML is read") from error
    # a tag such as !!int on another value makes the constructors of PyYAML fail in many ways
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(f"{where} cannot be read: not YAML ({' '.join(str(error).split())[:300]})") from error


def read_yaml(
    path: Path, where: str, *, aliases: bool = False, known: Mapping[str, Any] = NO_EXPRESSIONS
) -> dict[str, Any]:
    """The mapping in the YAML file ``path``, {} if it is empty, as ``parse_yaml`` reads it."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"{where}: {size} bytes, more than a plan or config can have")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{where} cannot be read: not text in UTF-8 ({error.reason})") from error
    value = parse_yaml(text, where, aliases=aliases, known=known)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected keys and values, found a {type(value).__name__}")
    return value
