"""Training and test loaders: workers without state, batches that depend on (seeds, step) only."""

from __future__ import annotations

import itertools
import pickle
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from runtime.errors import UserError
from runtime.stop import leave_signals_to_the_parent
from transfer.data import samplers
from transfer.data.labels import Record
from transfer.data.mapper import DetectionMapper, given_pixels

Item = dict[str, Any]
Plan = Iterator[list[samplers.Key]]  # the keys of one batch after another


class PackedRecords:
    """Records pickled into one byte array, which forked workers share.

    Reading a list of dicts changes its reference counts, so that every worker ends up with a copy of its own.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        blobs = [pickle.dumps(r, protocol=pickle.HIGHEST_PROTOCOL) for r in records]
        self._ends = np.cumsum([len(b) for b in blobs], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(blobs), dtype=np.uint8)
        self.sizes = [(int(r["height"]), int(r["width"])) for r in records]
        self.landscape = np.array([width > height for height, width in self.sizes])

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Record:
        begin = self._ends[index - 1] if index else 0
        record: Record = pickle.loads(self._bytes[begin : self._ends[index]].data)
        return record


class _Failure(NamedTuple):
    """A user's mistake found in a worker. As an exception its text would include the worker's traceback."""

    message: str


class _MappedRecords(Dataset[Any]):
    """Key (index, draw) -> item."""

    def __init__(self, records: PackedRecords, mapper: DetectionMapper) -> None:
        self._records, self._mapper = records, mapper

    def __getitem__(self, key: samplers.Key) -> Item | _Failure:
        try:
            return self._mapper(self._records[key[0]], key[1])
        except UserError as error:
            return _Failure(str(error))


def _start_method(num_workers: int) -> str | None:
    """Fork where there is one, whatever Python's default is by now (from 3.14 on: a server that forks).

    Workers of a server would each unpickle their own copy of the records, import everything again, and outlive a killed
    run, since their parent is the server.
    """
    return "fork" if num_workers and sys.platform.startswith("linux") else None


def _identity(item: Any) -> Any:
    return item


def _start_worker(worker: int) -> None:
    leave_signals_to_the_parent(worker)
    torch.set_num_threads(1)


class TrainLoader:
    """Iterates over lists of items of the batches that ``plan()`` returns, mapping items in ``num_workers``."""

    def __init__(
        self,
        records: PackedRecords,
        mapper: DetectionMapper,
        plan: Callable[[], Plan],
        *,
        num_workers: int,
        pin_memory: bool,
    ) -> None:
        self._records, self._mapper, self._plan = records, mapper, plan
        self._num_workers, self._pin_memory = num_workers, pin_memory

    def plan(self) -> Plan:
        """The keys of the batches, without reading an image."""
        return self._plan()

    def load(self, plan: Plan) -> Iterator[list[Item]]:
        """The batches of ``plan``, which may have been begun."""
        return iter(
            TrainLoader(
                self._records, self._mapper, lambda: plan, num_workers=self._num_workers, pin_memory=self._pin_memory
            )
        )

    def __iter__(self) -> Iterator[list[Item]]:
        sizes: list[int] = []  # of batches that were planned ahead and not delivered yet

        def keys() -> Iterator[samplers.Key]:
            for batch in self._plan():
                sizes.append(len(batch))
                yield from batch

        stream = _stream(
            _MappedRecords(self._records, self._mapper),
            keys(),
            num_workers=self._num_workers,
            pin_memory=self._pin_memory,
        )
        while first := list(itertools.islice(stream, 1)):
            batch = first + list(itertools.islice(stream, sizes.pop(0) - 1))
            for item in batch:
                if isinstance(item, _Failure):
                    raise UserError(item.message)
            yield batch


class TestLoader(TrainLoader):
    """A test loader; ``len()`` is its number of batches."""

    __test__ = False  # for pytest: not a test case

    def __init__(self, *args: Any, batches: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._batches = batches

    def __len__(self) -> int:
        return self._batches


def build_train_loader(
    *,
    records: Sequence[Record] | PackedRecords,
    mapper: DetectionMapper,
    batch_size: int,
    seed: int,
    draw_seed: int,
    rank: int = 0,
    world: int = 1,
    aspect_grouping: bool = True,
    repeat_factors: torch.Tensor | None = None,
    num_workers: int = 0,
    start: int = 0,
    pin_memory: bool = False,
    generator: np.random.RandomState | None = None,
) -> TrainLoader:
    """An endless loader of lists of ``batch_size`` items for one rank; every ``iter()`` begins at step ``start``.

    ``seed`` determines the order of images (the same on all ranks). ``draw_seed`` determines sizes and flips: with
    workers it is the number that ``draw_base_seed`` returned at the start of training (save it to resume with it),
    without workers SEED + rank. As in Detectron2 the stream depends on ``num_workers``: with equal seeds and workers,
    batches equal Detectron2's. ``repeat_factors`` (one per record) replaces plain epochs by repeat-factor sampling.
    Nothing is drawn from the global generators. ``generator``, for loaders without workers, is taken instead of one
    with ``draw_seed``: loaders that share it draw in the order in which their batches are asked for.
    """
    packed = records if isinstance(records, PackedRecords) else PackedRecords(records)
    landscape = packed.landscape if aspect_grouping else None

    def plan() -> Plan:
        if repeat_factors is None:
            indices = samplers.shuffled_indices(len(packed), seed)
        else:
            indices = samplers.repeated_indices(repeat_factors, seed)
        batches = samplers.plan_batches(
            samplers.rank_slice(indices, rank, world),
            lambda chosen, index: mapper.geometry.draw(chosen, packed.sizes[index]),
            batch_size=batch_size,
            generators=[generator]
            if generator is not None
            else [np.random.RandomState(one) for one in samplers.draw_seeds(num_workers, draw_seed)],
            landscape=landscape,
        )
        return itertools.islice(batches, start, None)

    return TrainLoader(packed, mapper, plan, num_workers=num_workers, pin_memory=pin_memory)


def build_test_loader(
    *,
    records: Sequence[Record],
    mapper: DetectionMapper,
    batch_size: int = 1,
    rank: int = 0,
    world: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> TestLoader:
    """Lists of up to ``batch_size`` items, in order: a rank's contiguous share of the records, each exactly once."""
    share = samplers.inference_range(len(records), rank, world)
    packed = PackedRecords(records)
    draw = mapper.geometry.test_draw()
    batches = [[(i, draw) for i in share[k : k + batch_size]] for k in range(0, len(share), batch_size)]
    return TestLoader(
        packed, mapper, lambda: iter(batches), num_workers=num_workers, pin_memory=pin_memory, batches=len(batches)
    )


class _MappedStream(Dataset[Any]):
    """A record itself is the key; the value is the record and its test item, or what is wrong with the image."""

    def __init__(self, mapper: DetectionMapper) -> None:
        self._mapper, self._draw = mapper, mapper.geometry.test_draw()

    def __getitem__(self, record: Record) -> tuple[Record, Item | str]:
        try:
            if "pixels" not in record:
                return record, self._mapper(record, self._draw)
            pixels = given_pixels(record["pixels"], self._mapper.image_format)
            return record, {**self._mapper.item_of(pixels, self._draw), "image_id": record["image_id"]}
        except UserError as error:
            return record, str(error)


def stream_items(
    records: Iterable[Record], mapper: DetectionMapper, *, num_workers: int = 0
) -> Iterator[tuple[Record, Item | str]]:
    """Each record with its test item, or with a sentence on why its image cannot be read; in order.

    ``records`` may be endless: at most a few of them for each worker are taken ahead, none without workers. A record
    has file_name, or ``pixels`` as ``given_pixels`` takes them.
    """
    return _stream(_MappedStream(mapper), iter(records), num_workers=num_workers)


def _stream(dataset: Any, keys: Iterator[Any], *, num_workers: int, pin_memory: bool = False) -> Iterator[Any]:
    """The items of ``dataset`` under ``keys``, in order, read by ``num_workers`` processes."""
    with warnings.catch_warnings():
        # more workers than cores: their number decides the batches (Detectron2's are 4), so it is not lowered here
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        return iter(
            DataLoader(
                dataset,
                sampler=keys,  # type: ignore[arg-type]
                batch_size=None,
                num_workers=num_workers,
                collate_fn=_identity,
                worker_init_fn=_start_worker,
                pin_memory=pin_memory,
                multiprocessing_context=_start_method(num_workers),
                generator=torch.Generator(),  # without one, building an iterator draws from the global generator
            )
        )


def draw_base_seed() -> int:
    """Draw from torch's global generator the number that a torch DataLoader would draw for its workers."""
    return int(torch.empty((), dtype=torch.int64).random_().item())
