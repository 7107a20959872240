"""Smaller images where the hours are too few for the usual ones: a trained detector of small images says more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from transfer.planning.own_data.detector import STRIDE
from transfer.planning.own_data.looking import DataLook
from transfer.planning.own_data.schedule import BRIEF, LEAST_SEEDS, Pace, Schedule

SMALLEST = 96  # pixels of the short side
CLEAR_OBJECT = 32  # pixels of the median object's side, below which images are not made smaller


def smaller_side(look: DataLook, side: int, pace: Pace, schedule: Callable[[Pace], Schedule], wanted: int) -> int:
    """The largest short side up to ``side`` at which half of the ``wanted`` steps with three seeds seem to fit.

    The smallest sensible side where none does; ``side`` where smaller images would blur the objects, or where not even
    the smallest fit. A step and a test image are taken to cost in proportion to their pixels, which overstates what is
    saved: the plan is made from a second probe.
    """
    sides = [
        s for s in range(side, min(side, SMALLEST) - 1, -STRIDE) if s == side or look.object_side * s >= CLEAR_OBJECT
    ]
    for candidate in sides:
        if trains_enough(schedule(_scaled(pace, (candidate / side) ** 2)), wanted):
            return candidate
    smallest = sides[-1]
    return smallest if schedule(_scaled(pace, (smallest / side) ** 2)).fits else side


def trains_enough(schedule: Schedule, wanted: int) -> bool:
    """Whether the hours allow three seeds of half of the usual schedule."""
    return schedule.fits and schedule.least >= LEAST_SEEDS and schedule.steps.value >= BRIEF * wanted


def why_smaller(usual: int, steps: int, wanted: int, hours: float) -> str:
    """The reason for a side below ``usual``, which left ``steps`` of the ``wanted`` ones."""
    return (
        f"{usual} pixels would be usual here, of which {hours:g} h allow {steps} of {wanted} steps; smaller images "
        "train longer. More hours bring the usual size back"
    )


def _scaled(pace: Pace, area: float) -> Pace:
    """``pace`` of images of ``area`` times the pixels, after a second probe."""
    return replace(
        pace,
        step=pace.step * area,
        statistics=pace.statistics * area,
        test_image=pace.test_image * area,
        spent=pace.spent * (1 + area),
    )
