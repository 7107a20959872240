"""The metric that conclusions are about."""

from __future__ import annotations

from collections.abc import Iterable

PROPOSALS = "box_proposals"  # the task of a region proposal network alone, named as in Detectron2
HEADLINES = ("AP", "AR@1000")  # of detectors, of proposals


def headline(metrics: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """(task, metric) of the first of ``metrics`` that conclusions are about; None where there is none."""
    return next((key for key in metrics if key[1] in HEADLINES), None)
