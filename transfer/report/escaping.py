"""Text for CSV, Markdown, TeX and a terminal: one function per format escapes what would mean something there.

Names and errors come from a plan or a result.json, which other people may have written. HTML is in ``markup``.
"""

from __future__ import annotations

import re

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet evaluates a cell that begins with one of these
MARKDOWN = {"\\": r"\\", "|": r"\|", "*": r"\*", "`": r"\`", "<": "&lt;", "](": r"]\("}  # the last makes a link
MINUS = re.compile(r"(?<![\w.)-])-(?=\d)")  # the hyphen of "moco-2" and of "2026-01-02" stays
TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after the end of a row it would begin an argument
    "*": "{*}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}


def one_line(text: object) -> str:
    """``text`` without line breaks and control characters; a terminal would obey the latter."""
    return "".join(char if char.isprintable() else " " for char in " ".join(str(text).split()))


def minus_signs(text: str) -> str:
    """``text`` with a minus sign (U+2212) before its negative numbers, as wide as a plus and read aloud as a minus.

    For pages and pictures; files that programs read keep the hyphen.
    """
    return MINUS.sub("\N{MINUS SIGN}", text)


def csv_text(text: str) -> str:
    """A cell of a CSV file; an apostrophe keeps a spreadsheet from running a name as a formula. Numbers stay."""
    return f"'{text}" if text.startswith(FORMULA) and not NUMBER.fullmatch(text) else text


def markdown_text(text: object) -> str:
    """Text of a Markdown file, in a table or not."""
    return re.sub(r"[\\|*`<]|\]\(", lambda match: MARKDOWN[match[0]], one_line(text))


def markdown_code(text: object) -> str:
    """A Markdown code span, fenced with more backticks than ``text`` has in a row."""
    line = one_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence}{line}{fence}" if len(fence) == 1 else f"{fence} {line} {fence}"


def tex_text(text: object) -> str:
    """Text of a TeX document."""
    return "".join(TEX.get(char, char) for char in one_line(text))
