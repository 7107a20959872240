"""Which images are in a share of a data set, and in the parts of one: to train on, and held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.errors import UserError

Parts = dict[str, list[Any]]  # "fit" and "held_out" -> image ids


def shuffled(count: int, seed: int) -> Sequence[int]:
    """The order in which the images of a set are taken: that of smaller shares is the beginning of larger ones."""
    import numpy as np

    order: Sequence[int] = np.random.RandomState(seed).permutation(count).tolist()
    return order


def size_of(count: int, share: float, where: str) -> int:
    """How many of ``count`` images a ``share`` (0 to 1) is, rounded. Raises UserError where that leaves none.

    ``where`` begins the message, e.g. "data set NAME".
    """
    size = round(count * share)
    if size < 1:
        raise UserError(
            f"{where}: a share of {share:g} of its {count} images is less than one image; take a larger one"
        )
    return size


def parts_of(
    ids: Sequence[Any], fit: float, held_out: float, within: float = 1.0, seed: int = 0, *, where: str = "data set"
) -> Parts:
    """Disjoint parts of ``ids``; the part for a smaller ``fit`` is a subset. Raises UserError for an empty one.

    All shares are of ``ids``. Both parts are among the images that ``fit=within`` would give with this ``seed``.
    """
    order = shuffled(len(ids), seed)
    last = size_of(len(ids), within, where)
    fitted, held = size_of(len(ids), fit, where), size_of(len(ids), held_out, where) if held_out else 0
    if held and within < 1:  # what was rounded up must not reach beyond the share
        fitted = min(fitted, last - held)
    if fitted < 1 or fitted + held > last:
        raise UserError(f"{where}: {last} images are too few to fit on {fit:g} and hold out {held_out:g} of {len(ids)}")
    return {"fit": [ids[i] for i in order[:fitted]], "held_out": [ids[i] for i in order[last - held : last]]}
