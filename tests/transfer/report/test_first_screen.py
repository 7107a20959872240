"""What the page begins with: five answers, in this order, that say no more than the runs show."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.transfer.report.report_files import report_on
from tests.transfer.run_store import INITS, make_record, write_run, write_store
from transfer.comparison.comparison import complete
from transfer.report.content import Report
from transfer.report.escaping import minus_signs
from transfer.report.files import write_report
from transfer.report.first_screen import ALWAYS_OPEN, compared, first_screen, not_shown, question


def test_question_verdict_runs_limits_and_next_step_come_before_the_other_comparisons(tmp_path: Path) -> None:
    write_store(tmp_path / "runs", 2, INITS, 3, classes=3)
    report = report_on(tmp_path / "runs", limits="Toy runs.")
    sentences = [minus_signs(sentence) for sentence in report.sentences]
    assert all(" supervised on " in sentence for sentence in sentences[:6])  # both configs, before any against random
    text = write_report(tmp_path / "out", report)["gap.html"].read_text()
    head = text[text.index("<h1>") : text.index("<nav")]
    assert re.findall("<dt>(.*?)</dt>", head) == ["Question", "Verdict", "Compared", "Limits", "What now", "Others"]
    assert "<dd>How far are memory_bank, moco_v1 and moco_v2 ahead of or behind supervised and random " in head
    assert f'<dt>Verdict</dt><dd><strong class="summary">{sentences[0]}<' in head
    assert "memory_bank, moco_v1, moco_v2 and 2 more, fine-tuned as config0 and config1: 30 runs, 3 seeds each" in head
    assert head.index("Toy runs.") < head.index(ALWAYS_OPEN) < head.index("What now") < head.index(sentences[1])
    assert head.index(sentences[2]) < head.index(f"{len(sentences) - 3} more comparisons") < head.index(sentences[3])
    assert all(sentence in head for sentence in sentences)


def test_runs_that_did_not_finish_and_unequal_seeds_are_counted(store: Callable[..., Path]) -> None:
    for seed in range(3):
        store(init="supervised", seed=seed)
    store(init="moco", seed=0)
    root = store(init="moco", seed=1, status="failed", error="stopped")
    assert compared(report_on(root)) == "moco and supervised, fine-tuned as toy: 4 of 5 runs, 1 to 3 seeds each."


def test_what_is_not_shown_follows_from_the_question(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, make_record(init="supervised", seed=seed))
        write_run(tmp_path, make_record(init="moco", seed=seed), "pretrain0")
    assert "not one about their method" in not_shown(report_on(tmp_path))
    for seed in (0, 1):
        write_run(tmp_path, make_record(init="moco", seed=seed), "pretrain1")
    report = report_on(tmp_path)
    assert "not one about their method" not in not_shown(report)
    assert "is about this pretraining data" in not_shown(report)
    assert compared(report).endswith(": 6 runs, 1 to 2 pretraining runs and 2 seeds each.")


def test_without_a_comparison_nothing_is_claimed(store: Callable[..., Path]) -> None:
    root = store(init="moco", status="failed", error="stopped")
    report = report_on(root)
    assert compared(report) == "No run has finished."
    assert not_shown(report) == ""
    assert question(report) == "What AP does moco reach after fine-tuning?"
    assert "Limits" not in first_screen(report).source
    empty = first_screen(Report("toy", "command", complete([]))).source
    assert "No comparison can be made yet" in empty
