"""HTML and SVG from elements that escape their text and attributes, so that forgetting to escape is impossible."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass

VOID = frozenset({"meta", "link", "img", "br"})  # HTML elements without an end tag
EMPTY = frozenset({"line", "circle", "polygon", "polyline", "path"})  # SVG shapes, closed in their start tag


@dataclass(frozen=True)
class Markup:
    """Finished HTML. Not a ``str``, so that text cannot be mistaken for it: text is escaped, ``Markup`` is not."""

    source: str

    def __bool__(self) -> bool:
        return bool(self.source)


Child = Markup | str | int | float | None
NOTHING = Markup("")


def element(tag: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """``<tag attributes>children</tag>``.

    An attribute's underscores become hyphens and a trailing one is dropped (``class_``, ``aria_label``); ``None`` and
    ``False`` leave it out, ``True`` writes its name alone.
    """
    start = tag + "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in VOID:
        return Markup(f"<{start}>")
    if tag in EMPTY:
        return Markup(f"<{start}/>")
    return Markup(f"<{start}>{join(children).source}</{tag}>")


def join(children: Iterable[Child]) -> Markup:
    """Children one after the other, text escaped."""
    return Markup("".join(_escape(child) for child in children))


def _escape(child: Child) -> str:
    if child is None:
        return ""
    return child.source if isinstance(child, Markup) else html.escape(str(child), quote=False)


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = name.removesuffix("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = html.escape(str(value), quote=False).replace('"', "&quot;")  # values are always in double quotes
    return f' {name}="{text}"'
