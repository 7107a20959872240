"""What a run is asked to do, as typed values. ``options.parse`` makes them; nothing below the command line sees flags.

The name of a field is that of its flag (``--moco-k`` -> ``moco_k``), so a group is filled by name.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pretrain.methods import METHODS
from pretrain.methods.row import MethodRow, ModelSettings, Sizes

if TYPE_CHECKING:  # it needs torch, and --help does not
    from pretrain.methods.base import Method

Group = TypeVar("Group")


@dataclass(frozen=True)
class DataSettings:
    """Images and views. data: folder, list or shards. cache: pre-decoded images. views: kind, None for the method's.
    max_bad: bad images tolerated, a share below 1 or a number. val: labelled images of the probe, None for DATA/val."""

    data: str
    image_size: int
    views: str | None
    aug_plus: bool
    aug_on: str
    cache: Path | None
    workers: int
    max_bad: float
    val: Path | None


@dataclass(frozen=True)
class OptimisationSettings:
    """Batch, length and learning rate. batch_size: images per step of one machine. iterations: length in steps, None
    for ``epochs``. schedule: epochs at which the rate changes, by ``lr_gamma`` or to ``schedule_factors`` of ``lr``.
    lr_every: steps between multiplications by ``lr_gamma``. optimizer: sgd, lars or adamw. start_epoch: where a
    checkpoint without a step begins."""

    batch_size: int
    accumulate: int
    epochs: int
    iterations: int | None
    start_epoch: int
    lr: float
    cos: bool
    schedule: tuple[int, ...]
    schedule_factors: tuple[float, ...] | None
    lr_every: int | None
    lr_gamma: float
    warmup_epochs: float
    momentum: float
    weight_decay: float
    optimizer: str


@dataclass(frozen=True)
class SavingSettings:
    """The run folder and its checkpoints. resume: a file, "auto" for the newest of the folder, None not to resume.
    allow_change: settings that may differ from the checkpoint's. save_every: in epochs. save_steps: 0 for never.
    keep: newest checkpoints to keep, 0 for all."""

    folder: Path
    resume: str | None
    allow_change: tuple[str, ...]
    save_every: int
    save_steps: int
    keep: int


@dataclass(frozen=True)
class ProbeSettings:
    """The kNN probe. knn_every: epochs between probes, 0 for none. knn_images: of each set at most, 0 for all.
    knn_layer: "backbone" or "head"."""

    knn_every: int
    knn_images: int
    knn_layer: str


@dataclass(frozen=True)
class ProcessSettings:
    """How processes are started and find each other; see the flags of the official code."""

    device: str | None
    gpu: int | None
    multiprocessing_distributed: bool
    world_size: int
    rank: int
    dist_url: str
    dist_backend: str | None


@dataclass(frozen=True)
class Settings:
    """All settings of one run.

    options: those of the method (an instance of its row's ``options``). recorded: every setting that decides the
    result, as the checkpoint records it and a resume compares it. demo: no folder of images was named.
    dry_run: nothing is trained or written.
    """

    method: str
    recipe: str
    recipe_named: bool
    demo: bool
    seed: int
    print_freq: int
    skip_nonfinite: int
    wandb: bool
    dry_run: bool
    model: ModelSettings
    options: Any
    data: DataSettings
    optimisation: OptimisationSettings
    saving: SavingSettings
    probe: ProbeSettings
    processes: ProcessSettings
    recorded: dict[str, Any]

    @property
    def row(self) -> MethodRow:
        """The method's row."""
        return METHODS[self.method]

    def build_method(self, sizes: Sizes) -> Method:
        """A new method, with weights from the global generator."""
        return self.row.build(self.model, self.options, sizes)


def group_of(kind: type[Group], values: dict[str, Any]) -> Group:
    """An instance of the dataclass ``kind``, each field from the value of its name, lists as tuples."""
    chosen = {item.name: values[item.name] for item in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()})
