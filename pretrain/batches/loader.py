"""Batches of views, step by step: the same whatever the number of workers, processes or restarts.

loader = build_loader(source, views, batch_size=256, epochs=200, seed=0, start_step=checkpoint_step, workers=8)
for batch in loader:  # batch.step starts at start_step
    query, key = views.on_device(batch, device)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from pretrain.batches.order import BlockOrder, Order, Sequential
from pretrain.batches.shared_memory import Ring, RingSlot
from pretrain.images.decode import BadImage
from pretrain.images.source import ImageSource
from pretrain.views import Views
from pretrain.views.batch import Batch
from runtime.counter_random import hash64
from runtime.errors import UserError
from runtime.logs import get_logger
from runtime.stop import leave_signals_to_the_parent

_REPLACEMENTS = 32  # substitutes tried for one bad image before giving up on the whole set
_PREFETCH = 2  # batches that each worker keeps ready


@dataclass
class _Parcel:
    """A batch on its way from a worker. pixels: uint8 count x B x H x W x 3, or the slot of the ring with them."""

    batch: Batch
    pixels: torch.Tensor | RingSlot

    def pin_memory(self) -> _Parcel:
        """The same with page-locked pixels, so that copies to a GPU overlap with its work; DataLoader calls this."""
        return _Parcel(self.batch, self._opened().pin_memory())

    def open(self) -> Batch:
        """The batch, with its images."""
        self.batch.images = [view.permute(0, 3, 1, 2) for view in self._opened()]
        return self.batch

    def _opened(self) -> torch.Tensor:
        return self.pixels.open() if isinstance(self.pixels, RingSlot) else self.pixels


class BatchMaker(Dataset):
    """step -> Batch, a pure function that every worker runs. ring: shared memory for the pixels, None for none."""

    def __init__(self, source: ImageSource, views: Views, order: Order | Sequential, seed: int) -> None:
        self.source, self.views, self.order, self.seed = source, views, order, seed
        self.ring: Ring | None = None

    def pixel_shape(self, images: int) -> tuple[int, ...]:
        """Shape of the pixels of a batch of ``images``: views x images x size x size x 3, uint8."""
        return self.views.count, images, self.views.image_size, self.views.image_size, 3

    def __getitem__(self, key: tuple[int, int]) -> _Parcel | UserError:
        """The batch of key = (step, slot of the ring or -1).

        A UserError is returned, not raised: DataLoader would wrap the traceback of a worker's exception around it, and
        the user is to see one line.
        """
        step, slot = key
        planned = self.order.batch(step)
        shape = self.pixel_shape(len(planned))
        place: torch.Tensor | RingSlot
        if self.ring is not None and slot >= 0:
            place, pixels = RingSlot(self.ring.number, slot, shape), self.ring.array(slot, shape)
        else:
            place = _empty_uint8(shape)
            pixels = place.numpy()
        try:
            return _Parcel(self._fill_batch(step, planned, pixels), place)
        except UserError as error:
            return error

    def make(self, step: int) -> Batch:
        """The batch of a step, made in this process."""
        parcel = self[step, -1]
        if isinstance(parcel, UserError):
            raise parcel
        return parcel.open()

    def _fill_batch(self, step: int, planned: np.ndarray, pixels: np.ndarray) -> Batch:
        epoch = self.order.epoch(step)
        u = self.views.draw(self.seed, epoch, self.order.identities(step, planned))
        params = self.views.params(u)
        shown = planned.copy()
        bad: list[tuple[int, str]] = []
        for row, index in enumerate(planned):
            shown[row] = self._fill(epoch, int(index), u[row], pixels[:, row], bad)
            if self.views.on_cpu:
                self.views.finish_on_cpu(pixels[:, row], params[:, row])
        labels = torch.tensor([self.source.label(int(index)) for index in shown], dtype=torch.int64)
        return Batch(step, epoch, torch.from_numpy(shown), [], labels, params, bad)

    def _fill(self, epoch: int, index: int, u: np.ndarray, out: np.ndarray, bad: list[tuple[int, str]]) -> int:
        """Write the views of image ``index`` to out, or of its substitute: a pure function of (seed, epoch, index)."""
        for candidate in self._candidates(epoch, index):
            try:
                self.views.cut(self.source.picture(candidate), u, out)
                return candidate
            except BadImage as error:
                bad.append((candidate, str(error)))
        raise UserError(f"{_REPLACEMENTS + 1} images in a row cannot be read, the last one: {bad[-1][1]}")

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        yield index
        yield from substitutes(self.seed, epoch, index, len(self.source))  # only when needed: costs half a view


def substitutes(seed: int, epoch: int, index: int, images: int) -> list[int]:
    """Images to show instead of a bad one, in the order they are tried; uniform over all images."""
    turn = np.arange(1, _REPLACEMENTS + 1)
    return [int(value % np.uint64(images)) for value in hash64(seed, epoch, np.full(1, index), turn)]


def _empty_uint8(shape: tuple[int, ...]) -> torch.Tensor:
    """Uninitialised uint8; in a worker, in memory shared with the main process, so that a batch is written once."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    size = int(np.prod(shape))
    storage = torch.UntypedStorage._new_shared(size)
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, shape)  # type: ignore[call-overload]


class Loader:
    """Iterable of Batch from ``start_step`` to ``stop_step``; made by ``build_loader``.

    order, steps_per_epoch, start_step, stop_step: as built. bad: {index: "name: reason"} of the bad images met so far.
    """

    def __init__(self, maker: BatchMaker, *, start_step: int, stop_step: int, workers: int, max_bad: float) -> None:
        self.order, self.steps_per_epoch = maker.order, maker.order.steps_per_epoch
        self.start_step, self.stop_step = start_step, stop_step
        self.bad: dict[int, str] = {}
        self._maker, self._workers = maker, workers
        self._limit = int(max_bad * len(maker.source)) if max_bad < 1 else int(max_bad)
        self._max_bad = max_bad

    def __len__(self) -> int:
        return max(0, self.stop_step - self.start_step)

    def __iter__(self) -> Iterator[Batch]:
        ring = self._maker.ring = self._new_ring()
        loader: DataLoader = DataLoader(
            self._maker,
            batch_size=None,
            sampler=_Keys(self.start_step, self.stop_step, ring),
            num_workers=self._workers,
            prefetch_factor=_PREFETCH if self._workers else None,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=leave_signals_to_the_parent,
            multiprocessing_context="fork" if ring else None,
            generator=torch.Generator(),  # its own, so that DataLoader does not draw from the global generator
        )
        for parcel in loader:
            if isinstance(parcel, UserError):
                raise parcel
            batch = parcel.open()
            del parcel
            self._note(batch.bad)
            yield batch
            del batch  # frees its slot of the ring before the next one is taken

    def _new_ring(self) -> Ring | None:
        """Memory for the batches that workers have ready, and three that the caller holds; None without workers."""
        if not self._workers or not sys.platform.startswith("linux"):  # elsewhere workers are spawned, not forked
            return None
        size = int(np.prod(self._maker.pixel_shape(self._maker.order.rows)))
        return Ring(self._workers * _PREFETCH + 3, size)

    def _note(self, bad: list[tuple[int, str]]) -> None:
        for index, message in bad:
            if index not in self.bad:
                self.bad[index] = message
                get_logger(__name__).warning("bad image, another one is shown instead: %s", message)
        if len(self.bad) > self._limit:
            total = len(self._maker.source)
            raise UserError(
                f"{len(self.bad)} of {total} images cannot be read, more than --max-bad {self._max_bad:g} allows "
                f"({self._limit}); the last one: {list(self.bad.values())[-1]}"
            )


@dataclass(frozen=True)
class _Keys(Sampler):
    """The keys of BatchMaker in order. A slot is taken when DataLoader asks for its key, just before it is filled."""

    start: int
    stop: int
    ring: Ring | None

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for step in range(self.start, self.stop):
            yield step, -1 if self.ring is None else self.ring.take()

    def __len__(self) -> int:
        return max(0, self.stop - self.start)


def build_loader(
    source: ImageSource,
    views: Views,
    *,
    batch_size: int,
    seed: int,
    epochs: int | None = None,
    stop_step: int | None = None,
    start_step: int = 0,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    max_bad: float = 0.01,
    order_of: Callable[..., Order] | None = None,
) -> Loader:
    """The training loader.

    batch_size: the global batch, over all ranks; each rank's Batch holds batch_size / world_size images.
    epochs or stop_step: where to end (exclusive, counted from step 0, not from start_step).
    start_step: first step to make; a resumed run passes the number of steps done.
    workers: processes making batches, 0 for none.
    max_bad: share (below 1) or number (1 or more) of bad images tolerated before a UserError.
    order_of: makes the order, of images, batch_size, seed, rank and world_size by keyword; None for the uniform one.
    Raises UserError when the batch does not fit the data set or cannot be split over the ranks.
    """
    blocks = source.block_ends()
    kind = order_of or (Order if blocks is None else partial(BlockOrder, block_ends=blocks))
    order = kind(images=len(source), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
    if (epochs is None) == (stop_step is None):
        raise ValueError("give either epochs or stop_step")
    end = stop_step if stop_step is not None else (epochs or 0) * order.steps_per_epoch
    maker = BatchMaker(source, views, order, seed)
    return Loader(maker, start_step=start_step, stop_step=end, workers=workers, max_bad=max_bad)


def build_eval_loader(
    source: ImageSource,
    views: Views,
    *,
    batch_size: int,
    workers: int = 0,
    max_bad: float = 0.01,
) -> Loader:
    """Every image once, in order, for kNN and linear probes; the last batch may be smaller.

    Views are drawn with seed 0, epoch 0. workers, max_bad: see build_loader.
    """
    order = Sequential(images=len(source), batch_size=batch_size)
    maker = BatchMaker(source, views, order, seed=0)
    return Loader(maker, start_step=0, stop_step=order.steps_per_epoch, workers=workers, max_bad=max_bad)
