"""The check of each step that keeps NaN out of a run: decided on the device, read by the host one step later."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed

from runtime.atomic import write_json
from runtime.distributed import all_gather_rows, rank, rank_count
from runtime.errors import UserError
from runtime.host_copies import fetch
from runtime.listing import listed
from runtime.logs import get_logger

log = get_logger("pretrain")


@dataclass(frozen=True)
class Verdict:
    """The result of one step's check, over all ranks.

    votes: on the host, valid once ``arrived``: numbers of ranks with a bad loss, a bad gradient, a signal to stop.
    images: indices of this rank's batch (B). loss: 0-dim, on the device.
    """

    step: int
    images: torch.Tensor
    loss: torch.Tensor
    votes: torch.Tensor
    arrived: torch.cuda.Event | None


class StepGuard:
    """Refuses an update whose loss or gradient is not finite, and agrees on when to stop, on every rank alike.

    The check, the agreement and the refusal happen on the device. The host reads a verdict one step later, when it has
    long arrived, so that no step waits for the device.
    """

    def __init__(self, folder: Path, tolerated: int = 0) -> None:
        """``tolerated`` bad steps in a row are skipped; the next one stops the run."""
        self.folder, self.tolerated, self.in_a_row = folder, tolerated, 0
        # Ranks must stop at the same step, or the others wait for ever in the next exchange: a signal to one of them
        # counts only once it has gone through the all-reduce of a verdict, which every rank reads at the same step.
        self.stop_agreed = False
        self._unread: deque[Verdict] = deque()

    def judge(
        self, loss: torch.Tensor, parameters: list[torch.Tensor], step: int, images: torch.Tensor, *,
        stopping: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        """Whether the update of ``step`` is refused: a 0-dim bool on the device of ``loss``.

        ``images`` are the indices of this rank's batch (B), ``stopping`` says that this rank has been told to stop.
        """
        loss = loss.detach()
        # A norm per tensor and their sum, instead of a test of every element: inf and NaN survive both.
        norms = torch.stack(torch._foreach_norm([p.grad for p in parameters if p.grad is not None]))
        stops = torch.full((), stopping, dtype=torch.bool, device=loss.device)
        votes = torch.stack([~torch.isfinite(loss), ~torch.isfinite(norms.sum()), stops]).float()
        if rank_count() > 1:
            distributed.all_reduce(votes)
        self._unread.append(Verdict(step, images, loss, *fetch(votes)))
        return votes[:2].sum() > 0

    def read(self, late: int = 0) -> None:
        """Act on all verdicts except the ``late`` newest; all ranks must call this at the same steps.

        A refused step is written to nonfinite_step_N.json. Raises UserError after more than the tolerated number in a
        row.
        """
        while len(self._unread) > late:
            verdict = self._unread.popleft()
            if verdict.arrived is not None:
                verdict.arrived.synchronize()
            bad_loss, bad_gradient, stops = verdict.votes.tolist()
            self.stop_agreed |= stops > 0
            self.in_a_row = self.in_a_row + 1 if bad_loss or bad_gradient else 0
            if self.in_a_row:
                self._report(verdict, "loss" if bad_loss else "gradient")

    def _report(self, verdict: Verdict, what: str) -> None:
        images = all_gather_rows(verdict.images.to(verdict.loss.device)).tolist()
        file = self.folder / f"nonfinite_step_{verdict.step}.json"
        if rank() == 0:
            record = {"step": verdict.step, "what": what, "loss": float(verdict.loss), "images": images}
            write_json(file, record)
        named = listed(images, 8)
        if self.in_a_row > self.tolerated:
            raise UserError(
                f"the {what} of step {verdict.step} is not finite (images {named}; all in {file}); the weights were "
                "not updated. Lower --lr, use --precision fp32, or tolerate single steps with --skip-nonfinite N"
            )
        log.warning("step %d skipped: the %s is not finite (images %s; all in %s)", verdict.step, what, named, file)


class BatchStatistics:
    """BatchNorm's running statistics, which the forward pass of a refused step has already changed, perhaps to NaN."""

    def __init__(self, method: torch.nn.Module) -> None:
        layers = [m for m in method.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        self.buffers: dict[torch.dtype, list[torch.Tensor]] = {}
        for buffer in (buffer for layer in layers for buffer in layer.buffers()):
            self.buffers.setdefault(buffer.dtype, []).append(buffer.view(-1))
        self.before: dict[torch.dtype, torch.Tensor] = {}

    def remember(self) -> None:
        """Copy them as they are before the step."""
        self.before = {dtype: torch.cat(buffers) for dtype, buffers in self.buffers.items()}

    def restore(self, refused: torch.Tensor) -> None:
        """Restore the copy where ``refused`` (0-dim bool on their device); nothing waits for it."""
        for dtype, buffers in self.buffers.items():
            chosen = torch.where(refused, self.before[dtype], torch.cat(buffers))
            torch._foreach_copy_(buffers, list(chosen.split([len(buffer) for buffer in buffers])))
