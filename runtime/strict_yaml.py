"""YAML as plain data: no tags that build objects, no duplicate keys."""

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


# what reading YAML can raise: its own errors, ValueError (not text, or an impossible date), too deep nesting
YAML_ERRORS = (yaml.YAMLError, ValueError, RecursionError)
