"""How a training fails: the errors that both engines raise, each text written once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from runtime.errors import UserError

ONE_VALUE = "more than 1 value per channel"  # part of torch's message when a variance is taken of a single element


class NonFiniteLoss(UserError):
    """Training has diverged. The last checkpoint is intact: the error is raised before the update."""


def non_finite_loss(iteration: int, image_ids: Iterable[object], reason: object) -> NonFiniteLoss:
    """The error for a loss or proposal that is not finite; ``reason`` is the engine's own description."""
    return NonFiniteLoss(
        f"the loss is not finite at iteration {iteration} on images {_listed(image_ids)} "
        f"({_one_line(reason)}); nothing was updated. Lower SOLVER.BASE_LR, lengthen the warm-up, or clip gradients, "
        "then resume from the last checkpoint"
    )


def one_value_per_channel(iteration: int, image_ids: Iterable[object], reason: object) -> UserError:
    """The error for a batch so small that a batch norm has no variance."""
    return UserError(
        f"a batch norm sees one value per channel at iteration {iteration}, images {_listed(image_ids)} "
        f"({_one_line(reason)}); raise SOLVER.IMS_PER_BATCH or INPUT.MIN_SIZE_TRAIN, or choose norms GN or FrozenBN"
    )


def different_config(checkpoint: Path, reason: object) -> UserError:
    """The error for a checkpoint whose tensors or optimiser state do not fit this run."""
    return UserError(
        f"{checkpoint} was written by a different config; use another OUTPUT_DIR ({_one_line(reason)[:200]})"
    )


def check_length(checkpoint: Path, done: int, max_iter: int) -> None:
    """Raise UserError when a checkpoint of ``done`` iterations is longer than the run that resumes from it."""
    if done > max_iter:
        raise UserError(
            f"{checkpoint} has {done} iterations, SOLVER.MAX_ITER is {max_iter}; raise it, or use another OUTPUT_DIR"
        )


def _listed(image_ids: Iterable[object]) -> str:
    return ", ".join(map(str, image_ids))


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split())
