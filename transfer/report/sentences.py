"""The comparisons of a report in words: what is ahead of what, of which the sentence speaks, and what it rests on."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from transfer.comparison.box_quality import BoxQuality
from transfer.comparison.comparison import Comparison
from transfer.comparison.differences import METHOD
from transfer.comparison.family import FAMILY_ALPHA, FLOOR, is_mirror, learned_nothing, unpaired
from transfer.comparison.gap import ROLES, Gap, Row, Table
from transfer.comparison.like_for_like import on_own_subsets
from transfer.comparison.next_steps import Spread
from transfer.comparison.student import ALPHA
from transfer.comparison.variance import Component
from transfer.comparison.verdicts import AHEAD, BEHIND, EQUIVALENT, NONE, UNDECIDED, Verdict
from transfer.config.protocol import FROZEN, last_stage
from transfer.records.run import Run
from transfer.report.csv_rows import bound, number, title

RELATION = {AHEAD: "ahead of", BEHIND: "behind"}
SEQUENTIAL = (
    "Seeds were added one at a time until the verdict or the largest number; alpha is spent over the looks. Intervals "
    "are those of a fixed number of seeds."
)
OWN_SUBSETS = (
    "Every fine-tuning seed drew a subset of the training images of its own, the same for all initialisations: what "
    "seeds vary includes what subsets vary."
)


def summary(comparison: Comparison) -> list[str]:
    """The sentences a report begins with: AP of every initialisation against each reference, per config.

    Initialisations that are not references come first, against supervised before random: they are what the plan asks
    about. A config on which nothing was learned gets one sentence at the end.
    """
    sentences: list[tuple[tuple[bool, int], str]] = []
    for table in comparison.tables:
        rows = table.headline_rows
        sentences += [((False, -1), text) for text in _without_runs(table, {row.init for row in rows})]
        if rows and learned_nothing(table):
            what = title(rows[0].task, rows[0].metric)
            text = f"Nothing was learned on {table.name}: no initialisation reaches {FLOOR} {what}."
            sentences.append(((True, len(ROLES)), text))
            continue
        sentences += [
            ((False, -1), _unpaired(table, row.init, table.references[role])) for row, role in unpaired(table)
        ]
        for place, role in enumerate(ROLES):
            for row in rows:
                if role in row.gaps and not is_mirror(table, row.init, role):
                    order = (row.init in table.references.values(), place)
                    sentences.append((order, sentence(table, row, row.gaps[role])))
    return [text for _, text in sorted(sentences, key=lambda pair: pair[0])]


def _without_runs(table: Table, finished: Collection[str]) -> list[str]:
    """A sentence for every initialisation whose runs all failed: it would vanish from the comparison."""
    return [
        f"{init} has no result on {table.name}: all of its {len(lost)} runs failed ({_first(lost)})."
        for init in table.inits
        if init not in finished and (lost := table.failures(init))
    ]


def _unpaired(table: Table, init: str, reference: str) -> str:
    """A sentence for two initialisations that cannot be compared: they would vanish from the summary."""
    lost = [run for one in (init, reference) for run in table.failures(one)]
    failed = f" ({len(lost)} failed: {_first(lost)})" if lost else ""
    return f"{init} against {reference} on {table.name}: no comparison, because no seed finished in every run{failed}."


def _first(lost: Sequence[Run]) -> str:
    """The first of several failures, and how many more there are."""
    more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
    return f"{lost[0].name}: {' '.join((lost[0].error or 'unknown error').split())}{more}"


def sentence(table: Table, row: Row, gap: Gap) -> str:
    """One comparison in words, e.g. "moco is +2.40 box AP ahead of supervised on voc with these weights (...)"."""
    verdict, one = gap.verdict, gap.difference
    if verdict is None:
        raise ValueError(f"{row.task} {row.metric} has no verdict: it is no headline metric")
    what = f"{number(one.mean, signed=True)} {title(row.task, row.metric)}"
    reference = f"{gap.reference} on {table.name}"
    about = "" if one.question == METHOD else " with these weights"
    other = table.row(gap.reference, row.task, row.metric)
    repeated = [one.question == METHOD and side is not None and len(side.cells) > 1 for side in (row, other)]
    subject = f"the method {row.init}" if repeated[0] else row.init
    reference = f"the method {reference}" if repeated[1] and not repeated[0] else reference
    bounds = _bounds(table, row, gap)
    if verdict.decided_with:
        text = _decided_early(subject, what, reference, gap, verdict, bounds)
    elif verdict.word == NONE:
        text = _without_verdict(subject, what, reference, gap, bounds)
    elif verdict.word == UNDECIDED:
        text = f"{subject} against {reference} is undecided{about}: {what} ({bounds}{_single(gap, verdict)})"
    elif verdict.word == EQUIVALENT:
        text = f"{subject} and {reference} are {verdict.word} within ±{verdict.margin:g} {row.metric}{about}: "
        text += f"{what} ({bounds})"
    else:
        less = f", by less than {verdict.margin:g}" if verdict.within_margin else ""
        text = f"{subject} is {what} {RELATION[verdict.word]} {reference}{about}{less} ({bounds})"
    text = f"{text}{_notes(gap)}"
    lost = [run for init in (row.init, gap.reference) for run in table.failures(init)]
    if lost:
        failed = f"{one.failed} of {one.planned} runs failed ({_first(lost)})"
        return f"Among the runs that finished, {text}; {failed}."
    return f"{text[0].upper()}{text[1:]}." if repeated[0] else f"{text}."


def _decided_early(subject: str, what: str, reference: str, gap: Gap, verdict: Verdict, bounds: str) -> str:
    """The numbers are those of all seeds, and need not agree with a verdict that fewer seeds reached."""
    word = f"{RELATION.get(verdict.word, '')} {reference}"
    if verdict.word == EQUIVALENT:
        word = f"equivalent to {reference} within ±{verdict.margin:g} points"
    return (
        f"{subject} is {word} with these weights, decided with {verdict.decided_with} seeds; with all "
        f"{len(gap.difference.seeds)} the difference is {what} ({bounds})"
    )


def _without_verdict(subject: str, what: str, reference: str, gap: Gap, bounds: str) -> str:
    one = gap.difference
    if len(one.seeds) > 1 or one.question == METHOD:
        reason = gap.verdict.reason if gap.verdict else ""
        return f"{subject} against {reference}: {what}, {NONE}: {reason or one.problem} ({bounds})"
    images = gap.over_images
    interval = ""
    if images is not None and images.low is not None:
        low, high = bound(images.low), bound(images.high)
        interval = f"; 95 % interval over the test images {low} to {high}"
    return (
        f"{subject} against {reference}: {what} on these images, with this seed; other seeds may differ by as much "
        f"({bounds}: {NONE}{interval})"
    )


def _bounds(table: Table, row: Row, gap: Gap) -> str:
    """The interval and the numbers of runs and seeds."""
    one = gap.difference
    parts = []
    if one.low is not None:
        parts.append(f"95 % interval {bound(one.low)} to {bound(one.high)}")
    if one.question == METHOD and not one.seeds:
        return ", ".join([*parts, _repetitions(*one.runs)])
    if one.question == METHOD:
        parts.append(_pretraining_runs(table, row.init, gap))
    seeds = len(one.seeds)
    parts.append(f"n={seeds}")
    other = table.row(gap.reference, row.task, row.metric)
    used = one.runs[0] * seeds, one.runs[1] * seeds
    if other is not None and used != (row.n, other.n):
        parts.append("over the seeds that both have")
    return ", ".join(parts)


def _repetitions(own: int, other: int) -> str:
    """How often everything was repeated."""
    return f"{own} repetitions" if own == other else f"{own} against {other} repetitions"


def _pretraining_runs(table: Table, init: str, gap: Gap) -> str:
    own, other = gap.difference.runs
    bare = table.without_pretraining
    if gap.reference in bare or init in bare:
        return f"{other if init in bare else own} pretraining runs"
    return f"{own} against {other} pretraining runs"


def _single(gap: Gap, verdict: Verdict) -> str:
    """Why an interval beside 0 gives no verdict."""
    if gap.difference.p is None or gap.difference.p > ALPHA:
        return ""
    if verdict.p_difference is None:
        return "; the interval excludes 0, but seeds were added"
    adjusted = f", but p={verdict.p_difference:.2g} adjusted for all comparisons is above {FAMILY_ALPHA:g}"
    return f"; the interval excludes 0 on its own{adjusted}"


def _notes(gap: Gap) -> str:
    return f"; {gap.difference.note}" if gap.difference.note else ""


def protocol_sentences(table: Table) -> list[str]:
    """What all runs of a table share and its numbers depend on: a frozen backbone, a subset for each seed."""
    own = OWN_SUBSETS if on_own_subsets([run for run in table.runs if run.finished]) else ""
    return [sentence for sentence in (_frozen(table), own) if sentence]


def _frozen(table: Table) -> str:
    """What a table of frozen backbones holds fixed and what is trained; "" for tuned ones and runs that do not say."""
    finished = [run.record for run in table.runs if run.finished]
    if not finished or any(record.get("protocol") != FROZEN for record in finished):
        return ""
    flat = finished[0]["config"]["flat"]
    checked = all(record.get("backbone_sha256") for record in finished)
    proof = "; its sha256 was the same at the start and at the end of every run" if checked else ""
    in_heads = str(flat["MODEL.ROI_HEADS.NAME"]).startswith("Res5")
    heads = ", and so is res5, which belongs to the region heads" if in_heads else ""
    return (
        f"Frozen backbone: stem to res{last_stage(flat)} and their batch-norm statistics are those of the "
        f"initialisation{proof}. "
        f"Everything after it is trained{heads}."
    )


def spread_sentence(one: Spread) -> str:
    """Where the spread of one initialisation comes from, and what one more repetition would buy."""
    parts = one.components
    if parts.pretraining is None or parts.seed is None:
        *first, last = parts.residual_contains
        contains = f"{', '.join(first)} and {last} together" if first else last
        shown = f"{_deviation(parts.residual)} ({contains})" if parts.residual else "unknown"
        text = f"{one.init}: standard deviation of a run {shown}"
    else:
        share = parts.pretraining_share
        text = (
            f"{one.init}: standard deviations of {_deviation(parts.pretraining)} from the pretraining run, "
            f"{_deviation(parts.seed)} from the fine-tuning seed, {_deviation(parts.residual)} left"
        )
        text += f"; {share:.0%} of a run's variance is its pretraining's" if share is not None else ""
    run = "repetition" if one.of_everything else "pretraining run"
    more = {run: one.with_a_run, "fine-tuning seed": one.with_a_seed}
    buys = [f"{name} ±{half:.2f}" for name, half in more.items() if half is not None]
    buys[0] = buys[0].replace(" ±", " buys ±")
    shown = ", ".join(f"one more {part}" for part in buys)
    told = one.of_everything or one.with_a_seed is not None
    unknown = "" if told else "; what one more fine-tuning seed buys is unknown with one seed"
    return f"{text}. Expected interval against {one.reference} ±{one.half_width:.2f}; {shown}{unknown}."


def _deviation(part: Component | None) -> str:
    if part is None:
        return "unknown"
    return f"{part.value**0.5:.2f}{' (estimate below 0)' if part.truncated else ''}"


def shape_sentences(qualities: Sequence[BoxQuality]) -> list[str]:
    """What differs in box quality beyond the noise; [] when nothing does."""
    sentences = []
    for one in qualities:
        percent, low, high = one.percent
        relation = "more" if percent > 0 else "less"
        sentences.append(
            f"{one.init} keeps {abs(percent):.1f} % {relation} of its AP50 at AP75 than {one.reference} "
            f"(95 % interval {low:+.1f} to {high:+.1f} %, {one.difference.question})."
        )
    return sentences
