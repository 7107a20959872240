"""YAML as plain data: no tag that builds objects, no key given twice, one kind of error for every mistake."""

from __future__ import annotations

from typing import Any

import yaml


class StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice: the later one would silently erase the earlier block."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a dict; a repeated key, and a key that is itself a list or mapping, is an error that names it."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key_node.start_mark)
            if key_node.value in seen:
                problem = f"duplicate key {key_node.value}"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


# what reading YAML raises: its own errors, no text at all or a date that does not exist, bottomless nesting
YAML_ERRORS = (yaml.YAMLError, ValueError, RecursionError)
