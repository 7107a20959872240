"""How long each run trains, and how many seeds there are: by the number of images, the hours and a probe."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from runtime.listing import counted
from transfer.comparison.family import FAMILY_ALPHA
from transfer.comparison.power import PUBLISHED_SPREADS, seeds_for, standard_error_of_pairs, visible_gap
from transfer.planning.own_data.detector import Choice

# training images -> images seen in all, from docs/own_data.md: steps of 4 images
SEEN = {200: 8_000, 1_000: 24_000, 5_000: 60_000}  # the last one, 12 epochs, is also COCO's 1x schedule
LEAST_SEEDS, MOST_SEEDS = 3, 10
DROPS = (0.75, 0.9)  # shares of the schedule at which the rate drops tenfold
WARMUP = 100  # steps, at most a tenth of the schedule
SAFETY = 0.85  # of the hours are planned; the rest is for what a probe cannot see
REPORT_SECONDS = 20.0  # leakage check, comparison and report
CONVERT_SECONDS = 10.0  # of one checkpoint
FEWEST_STEPS = 20  # a run of fewer would not leave the warm-up
BRIEF = 0.5  # of the schedule; below, the plan says that detectors are far from trained
PRECISE_BATCHES = 100  # at most, for batch norm's statistics
ROOM_FOR_A_FRACTION = 6.0  # whole seeds that fit; then a second table does not take seeds that are needed
HELD_UP = 0.5  # of a core; a training that has less is waiting, since it never uses less than about one
SMALL_SETS = 5  # times the published spread; not measured
# a smaller set of labels, where there is room: fewest training images, share
FRACTIONS = ((2_000, 0.1), (400, 0.25))


@dataclass(frozen=True)
class Pace:
    """Seconds that a probe measured: before the first step, of a step, a batch of statistics, a test image."""

    start: float
    step: float
    statistics: float
    test_image: float
    memory_mb: float
    spent: float = 0.0  # by the probe
    cores: float = 1.0  # that its training had on average, by its CPU time

    def run(self, steps: int, test_images: int) -> float:
        """Seconds of one run."""
        batches = precise_batches(steps)
        return self.start + steps * self.step + batches * self.statistics + test_images * self.test_image

    def line(self) -> str:
        """A description for people."""
        return (
            f"probe: {self.step:.2f} s a step, {self.test_image:.3f} s a test image, {self.start:.0f} s before the "
            f"first step, {self.memory_mb / 1024:.1f} GB of memory at most"
        )

    def held_up(self) -> str:
        """A sentence where the probe had to wait for most of its time; "" otherwise."""
        if self.cores >= HELD_UP:
            return ""
        return (
            f"note: the probe had {self.cores:.2f} of a core: other work, or slow storage, held it up. Runs take less "
            "time without that, and a plan that is made then is longer"
        )


@dataclass(frozen=True)
class Schedule:
    """``most`` seeds are run, ``least`` of them at first. ``fraction``: a second table with this share of the labels.

    ``short``: a sentence on what the hours do not allow, "" where they allow everything. ``seconds``: of one run, and
    ``fraction_seconds`` of one of the second table.
    """

    steps: Choice
    least: int
    most: int
    why_seeds: str
    seconds: float
    fraction: float = 0.0
    fraction_steps: int = 0
    fraction_seconds: float = 0.0
    short: str = ""
    fits: bool = True  # into the hours

    def total_hours(self, inits: int, seeds: int) -> float:
        """Predicted hours of all runs with this number of seeds, conversions and report included."""
        each = self.seconds + self.fraction_seconds
        return (inits * seeds * each + (inits - 1) * CONVERT_SECONDS + REPORT_SECONDS) / 3600


def wanted_steps(images: int, batch: int) -> int:
    """Steps for this many training images: between the rows of ``SEEN`` in log scale; as many as the first row has for
    fewer images, since a detector needs steps; and the epochs of the last row for more.
    """
    last = max(SEEN)
    if images >= last:
        seen = float(SEEN[last]) * images / last
    else:
        seen = math.exp(float(np.interp(math.log(images), np.log(list(SEEN)), np.log(list(SEEN.values())))))
    return max(FEWEST_STEPS, round(seen / batch))


def precise_batches(steps: int) -> int:
    """Batches for batch norm's statistics: they must not take longer than training itself."""
    return max(10, min(PRECISE_BATCHES, steps // 10))


def comparisons(inits: list[str]) -> int:
    """Pairs in the report: each initialisation against each reference, which are random and, if given, supervised."""
    references = 1 + ("supervised" in inits)
    return (len(inits) - references) * references + (references == 2)


def choose_schedule(
    *, images: int, test_images: int, batch: int, inits: list[str], pace: Pace, hours: float | None, margin: float
) -> Schedule:
    """The longest useful schedule and the most seeds that the hours allow; the shortest one where none fits."""
    wanted = wanted_steps(images, batch)
    why = f"{wanted * batch / images:.0f} epochs of {images} images, as for sets of this size (docs/own_data.md)"
    if hours is None:
        reason = f"no --hours are given, so {MOST_SEEDS} at most; {_sees(MOST_SEEDS, inits, margin)}"
        return Schedule(Choice(wanted, why), LEAST_SEEDS, MOST_SEEDS, reason, pace.run(wanted, test_images))
    budget = (hours * 3600 * SAFETY - pace.spent - (len(inits) - 1) * CONVERT_SECONDS - REPORT_SECONDS) / len(inits)
    for least in (LEAST_SEEDS, 2, 1):
        steps = min(wanted, _steps_in(budget / least, test_images, pace))
        if steps >= FEWEST_STEPS:
            break
    fits, steps = steps >= FEWEST_STEPS, max(steps, FEWEST_STEPS)
    if steps < wanted:
        why = f"{steps * batch / images:.2g} epochs: what fits into {hours:g} h, where {wanted} steps would be usual"
    seconds = pace.run(steps, test_images)
    fraction, fraction_steps, fraction_seconds = 0.0, 0, 0.0
    if budget / seconds >= ROOM_FOR_A_FRACTION:
        fraction = next((share for fewest, share in FRACTIONS if images >= fewest), 0.0)
    if fraction:
        fraction_steps = min(steps, wanted_steps(round(images * fraction), batch))
        fraction_seconds = pace.run(fraction_steps, test_images)
    most = max(least, min(MOST_SEEDS, int(budget / (seconds + fraction_seconds))))
    seeds = f"{counted(most, 'seed fits', 'seeds fit')} into {hours:g} h; {_sees(most, inits, margin)}"
    short = _shortcoming(hours, least, steps / wanted)
    if not fits:
        needed = hours + (seconds - budget) * len(inits) / SAFETY / 3600
        seeds = "the fewest"
        why = f"{steps * batch / images:.2g} epochs: the fewest steps, where {wanted} would be usual"
        needs = f"about {needed:.2f} h with the probe and a reserve"
        short = f"one seed of {FEWEST_STEPS} steps needs {needs}; such runs cannot decide anything"
    fraction_of = (fraction, fraction_steps, fraction_seconds)
    return Schedule(Choice(steps, why), least, most, seeds, seconds, *fraction_of, short, fits)


def _shortcoming(hours: float, seeds: int, share: float) -> str:
    """What the hours do not allow, "" where they allow the usual schedule with enough seeds."""
    if seeds < LEAST_SEEDS:
        return f"{hours:g} h allow {counted(seeds, 'seed', 'seeds')} only: these runs cannot decide anything"
    if share < BRIEF:
        return (
            f"{hours:g} h allow {share:.0%} of the usual schedule: detectors are far from trained, and which "
            "initialisation leads may change with longer training"
        )
    return ""


def _steps_in(seconds: float, test_images: int, pace: Pace) -> int:
    """The most steps of a run that takes at most ``seconds``; 0 or less where nothing fits."""
    steps = int((seconds - pace.run(0, test_images)) / pace.step)
    while steps > 0 and pace.run(steps, test_images) > seconds:  # longer runs take more batches of statistics
        steps -= 1
    return steps


def _sees(seeds: int, inits: list[str], margin: float) -> str:
    """What this many seeds can see, if runs vary as published ones do, and if they vary five times as much."""
    if seeds < 2:
        return "one seed has no spread, so there is no verdict"
    published = PUBLISHED_SPREADS["voc"].sd
    alpha = FAMILY_ALPHA / comparisons(inits)
    seen = {
        sd: visible_gap(float(standard_error_of_pairs(sd, seeds)), seeds - 1, alpha=alpha)
        for sd in (published, SMALL_SETS * published)
    }
    shown = [f"above {gap:.1f} AP if runs vary by {sd:g} AP" for sd, gap in seen.items()]
    needed = seeds_for(margin, SMALL_SETS * published, alpha=alpha)
    return (
        f"they can see differences {shown[0]} as on VOC, {shown[1]} as small test sets may; "
        f"{margin:g} AP would then take {needed or 'more than 1000'} seeds"
    )
