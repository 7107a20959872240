"""Findings as lines and records; lists that say when they are cut."""

import json

import pytest

from runtime.findings import Finding
from runtime.listing import listed


def test_a_finding_names_kind_count_example_and_meaning():
    finding = Finding("image listed twice", 12, "a.jpg", "its annotations are divided; list it once")
    assert finding.line() == "image listed twice: 12, e.g. a.jpg: its annotations are divided; list it once"
    assert Finding(**json.loads(json.dumps(finding.as_record()))) == finding


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, ""), (1, "n0"), (3, "n0, n1, n2"), (4, "n0, n1, n2 and 1 more"), (8, "n0, n1, n2 and 5 more")],
)
def test_a_cut_list_says_so(count, text):
    assert listed([f"n{i}" for i in range(count)], limit=3) == text
