"""Epochs drawn by how informative the images were when last seen, and the scores that this takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.batches.informed import InformedOrder, probabilities
from pretrain.batches.loader import Loader
from pretrain.batches.scores import ImageScores
from pretrain.images.source import ImageSource
from pretrain.methods.base import Method
from pretrain.methods.row import SamplingRule
from pretrain.views.batch import Batch
from runtime.distributed import World, all_gather_rows
from runtime.errors import UserError
from runtime.host_copies import fetch, send
from runtime.logs import get_logger

log = get_logger("pretrain")


class InformedEpochs:
    """The scores of a run's images, updated step by step, and the batches that they decide.

    An epoch is drawn at its start, by the scores of that moment, which are kept with the current ones in every
    checkpoint: a run that continues in the middle of an epoch continues with the same draw. Scores arrive from the
    device behind the steps; only the first step of an epoch, and a checkpoint, wait for the last of them.
    """

    def __init__(self, rule: SamplingRule, source: ImageSource, folder: Path, world: World) -> None:
        """UserError for a score file of other images in ``folder``."""
        self.rule, self.source = rule, source
        self.scores = ImageScores(
            folder if world.is_main else None,
            len(source),
            source.fingerprint,
            lambda recorded: source.fingerprints_like(recorded).images,
        )
        self._unread: deque[tuple[torch.Tensor, torch.Tensor, list[torch.cuda.Event | None]]] = deque()

    def note(self, method: Method, batch: Batch, refused: torch.Tensor) -> None:
        """Take the step's scores from the method, of all ranks alike; called once a step, waits for nothing."""
        values = method.informative()
        values = all_gather_rows(torch.where(refused, torch.full_like(values, torch.nan), values))
        images, arrived = fetch(all_gather_rows(send(batch.indices, values.device)))
        copied, too = fetch(values)
        self._unread.append((images, copied, [arrived, too]))
        self.settle(late=2)

    def settle(self, late: int = 0) -> None:
        """Write the scores of all steps but the ``late`` newest."""
        while len(self._unread) > late:
            images, values, events = self._unread.popleft()
            for event in events:
                if event is not None:
                    event.synchronize()
            self.scores.note(images.numpy(), values.numpy(), self.rule.momentum)

    def state(self) -> torch.Tensor:
        """The scores for a checkpoint, 2 x N float32."""
        self.settle()
        return torch.from_numpy(self.scores.state())

    def resume(self, checkpoint: dict[str, Any], same_images: bool) -> None:
        """Continue with the scores of a checkpoint; without any, or after a change of the images, all are unseen."""
        saved = checkpoint.get("scores")
        if saved is None or not same_images:
            log.info("no scores of these images in the checkpoint: the current epoch is drawn uniformly")
            return
        if not isinstance(saved, torch.Tensor) or saved.shape != (2, len(self.source)):
            raise UserError(
                f"the scores of the checkpoint are not those of {len(self.source)} images; resume from another"
            )
        self.scores.load(saved.numpy())

    def batches(self, loader_of: Callable[..., Loader], start: int, stop: int, per_epoch: int) -> Iterator[Batch]:
        """All batches from step ``start`` to ``stop``. loader_of: ``build_loader`` without order, start and stop."""
        step = start
        bad: dict[int, str] = {}
        while step < stop:
            self.settle()
            epoch, within = divmod(step, per_epoch)
            if not within:
                self.scores.begin_epoch()
            shares = probabilities(np.asarray(self.scores.drawn_by), self.rule.temperature, self.rule.floor)
            order_of = partial(InformedOrder, at_epoch=epoch, shares=shares, block_ends=self.source.block_ends())
            end = min(stop, (epoch + 1) * per_epoch)
            loader = loader_of(order_of=order_of, start_step=step, stop_step=end)
            loader.bad = bad  # counted over the whole run
            order = loader.order
            if isinstance(order, InformedOrder):
                log.info(
                    "epoch %d is drawn by %s: %d of %d images", epoch + 1, self.rule.by, order.distinct(), len(shares)
                )
            yield from loader
            step = end
