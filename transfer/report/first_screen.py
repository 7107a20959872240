"""What the page begins with: the question, the verdict, what was compared, what that does not show, what to do next."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from transfer.comparison.differences import METHOD, WEIGHTS
from transfer.comparison.gap import ROLES
from transfer.report.content import Report
from transfer.report.escaping import minus_signs
from transfer.report.markup import Child, Markup, element, join
from transfer.report.page import details, paragraph

MOST_SENTENCES = 3  # comparisons in words before the first table; the others are folded away
MOST_NAMES = 4  # initialisations or configs that a line names
NEXT_STEP = "What now: "  # how the line begins in the other formats; here it is the term beside it
NOTHING_YET = "No comparison can be made yet: no two initialisations have a finished run with the same seed."
# what a verdict that answers one question or the other leaves open
LEFT_OPEN = {
    WEIGHTS: "A verdict about these weights is not one about their method: another pretraining run of it may differ by "
    "more than two methods do.",
    METHOD: "A verdict about a method is about this pretraining data.",
}
ALWAYS_OPEN = "Other data sets, detectors and schedules may order the initialisations differently."


def first_screen(report: Report) -> Markup:
    """A list of answers, the other comparisons in words at its end; many are folded away."""
    first, *others = report.sentences or [NOTHING_YET]
    answers: list[tuple[str, Child]] = [
        ("Question", question(report)),
        ("Verdict", element("strong", minus_signs(first), class_="summary")),
        ("Compared", compared(report)),
        ("Limits", join([paragraph(report.limits), paragraph(not_shown(report))])),
        ("What now", minus_signs(_sentence(report.next_step.removeprefix(NEXT_STEP)))),
        ("Others", _others(others)),
    ]
    terms = [join([element("dt", term), element("dd", answer)]) for term, answer in answers if answer]
    return element("dl", *terms, class_="answers")


def _others(sentences: Sequence[str]) -> Markup:
    items = [element("li", minus_signs(text)) for text in sentences]
    shown, folded = items[: MOST_SENTENCES - 1], items[MOST_SENTENCES - 1 :]
    return join(
        [
            element("ul", *shown) if shown else None,
            details(f"{len(folded)} more comparisons", element("ul", *folded)) if folded else None,
        ]
    )


def question(report: Report) -> str:
    """What the runs were made to answer."""
    tables = report.comparison.tables
    inits = dict.fromkeys(init for table in tables for init in table.inits)
    references = dict.fromkeys(table.references[role] for role in ROLES for table in tables if role in table.references)
    subjects = [init for init in inits if init not in references]
    if not references or not subjects:
        names = subjects or list(references)
        alone = f"What AP does {_names(names)} reach after fine-tuning?" if names else ""
        return f"How do {_names(names)} compare after fine-tuning?" if len(names) > 1 else alone
    verb = "is" if len(subjects) == 1 else "are"
    return f"How far {verb} {_names(subjects)} ahead of or behind {_names(list(references))} after fine-tuning?"


def compared(report: Report) -> str:
    """Initialisations, configs, and numbers of runs."""
    tables = report.comparison.tables
    runs = [run for table in tables for run in table.runs]
    finished = sum(run.finished for run in runs)
    if not finished:
        return "No run has finished."
    names = _names(list(dict.fromkeys(init for table in tables for init in table.inits)))
    rows = [row for table in tables for row in table.headline_rows]
    seeds = _span({len({seed for run in row.cells.values() for seed in run}) for row in rows}, "seed")
    repeated = {len(row.cells) for row in rows}
    pretraining = f"{_span(repeated, 'pretraining run')} and " if repeated - {1} else ""
    if any(row.repeats_everything for row in rows):
        pretraining, seeds = "", _span({row.n for row in rows}, "repetition")
    each = f"{pretraining}{seeds} each" if rows else "none with an AP"
    of = f" of {len(runs)}" if finished < len(runs) else ""
    return f"{names}, fine-tuned as {_names([table.name for table in tables])}: {finished}{of} runs, {each}."


def not_shown(report: Report) -> str:
    """What the verdicts leave open: it follows from the questions that they answer."""
    gaps = [gap for table in report.comparison.tables for row in table.headline_rows for gap in row.gaps.values()]
    asked = {gap.difference.question for gap in gaps}
    left_open = [text for question, text in LEFT_OPEN.items() if question in asked]
    return " ".join([*left_open, ALWAYS_OPEN]) if gaps else ""


def _sentence(text: str) -> str:
    """``text`` with a capital letter: here no words stand before it."""
    return text[:1].upper() + text[1:]


def _names(names: Sequence[str]) -> str:
    """ "a, b and c", at most ``MOST_NAMES`` of them."""
    if len(names) > MOST_NAMES:
        names = [*names[: MOST_NAMES - 1], f"{len(names) - MOST_NAMES + 1} more"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""


def _span(counts: Collection[int], what: str) -> str:
    """ "2 seeds", or "1 to 3 seeds" where the numbers differ; "" without any."""
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    number = f"{low}" if low == high else f"{low} to {high}"
    return f"{number} {what}" + ("" if high == 1 else "s")
