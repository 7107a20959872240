"""Elements escape their text and attributes; each other format has its own escaping."""

from __future__ import annotations

import pytest

from transfer.report.escaping import csv_text, markdown_code, markdown_text, one_line, tex_text
from transfer.report.markup import Markup, element, join


def test_text_and_attributes_are_escaped_and_markup_is_not() -> None:
    inner = element("em", '<b> & "c"')
    assert inner == Markup('<em>&lt;b&gt; &amp; "c"</em>')
    outer = element("p", inner, 3, None, title='"<&', data_csv="1.mean", class_="soft", hidden=True, lang=None)
    assert outer.source == (
        '<p title="&quot;&lt;&amp;" data-csv="1.mean" class="soft" hidden><em>&lt;b&gt; &amp; "c"</em>3</p>'
    )
    assert join(["<", inner]).source == f"&lt;{inner.source}"
    assert element("br").source == "<br>"
    assert element("path", d="M0 0").source == '<path d="M0 0"/>'


def test_markup_is_not_text() -> None:
    with pytest.raises(TypeError):
        element("p") + "<script>"  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-x", "'-x"),
        ("@sum", "'@sum"),
        ("\tx", "'\tx"),
        ("+2.40", "+2.40"),
        ("-0.30", "-0.30"),
        ("-5", "-5"),
        ("moco", "moco"),
        ("", ""),
    ],
)
def test_formulas_are_disarmed_and_numbers_stay(text: str, cell: str) -> None:
    assert csv_text(text) == cell


def test_markdown_tex_and_terminal() -> None:
    assert markdown_text("a|b\\|c\n*d* `e` <f> [g](h)") == "a\\|b\\\\\\|c \\*d\\* \\`e\\` &lt;f> [g]\\(h)"
    assert markdown_text("[-1.42, +0.03]") == "[-1.42, +0.03]"
    assert markdown_code("a ``b` c") == "``` a ``b` c ```"
    assert markdown_code("python x.py") == "`python x.py`"
    assert tex_text("a_b\\c{d}~^%\n&") == r"a\_b\textbackslash{}c\{d\}\textasciitilde{}\textasciicircum{}\% \&"
    assert one_line("a\x1b[31m\nb") == "a [31m b"
