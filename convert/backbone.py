"""A converted backbone and what is known about it, and what every kind of network says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from convert.architecture import Architecture
from convert.preprocessing import Preprocessing
from runtime.errors import UserError


class Network(Protocol):
    """What a converted network is: a class for each kind, :class:`convert.architecture.Architecture` for ResNets.

    ``prefix``: of its tensors' names in a detector; "" for a ResNet, whose names Detectron2's loader matches by their
    ends.
    """

    @property
    def prefix(self) -> str: ...

    @property
    def name(self) -> str: ...

    def parts(self) -> Iterator[tuple[Any, tuple[int, ...]]]:
        """Every required tensor with its shape."""

    def config(self) -> dict[str, Any]:
        """The config keys that it needs."""

    def stage_of(self, name: str) -> str:
        """The row of the report that a tensor belongs to; ``name`` is without ``prefix``."""


@dataclass(frozen=True)
class Converted:
    """The tensors of a network under Detectron2's names, and the comparison with its source, which is made on demand.

    ``compare``: given whether the stride is in the 1x1 convolution, stage -> largest difference of the activations.
    """

    network: Network
    tensors: Mapping[str, np.ndarray]
    compare: Callable[[bool], Mapping[str, float]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Coverage:
    """How many of the backbone's tensors are set (not counting BN's batch counters), and what was left out."""

    backbone_tensors: int
    set: int
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Backbone:
    """A network in Detectron2's names, ready to be written (:func:`convert.backbone_file.write_backbone`).

    ``tensors``: Detectron2 name -> float32 array (``num_batches_tracked``: int64), possibly views of the mapped source
    file. ``max_abs_diff``: stage (stem, res2 .. res5 of a ResNet) -> largest difference between the source network's
    and the converted backbone's activations on one image; None where it was not computed.
    """

    tensors: Mapping[str, np.ndarray]
    architecture: Network
    preprocessing: Preprocessing
    coverage: Coverage
    family: str
    encoder: str
    source: Path
    source_sha256: str | None
    max_abs_diff: Mapping[str, float] | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def config(self) -> dict[str, Any]:
        """Config keys that must be set for these weights: preprocessing, a ResNet's stride place, architecture."""
        return {**self.preprocessing.config(resnet=not self.architecture.prefix), **self.architecture.config()}

    def resnet(self, what: str) -> Architecture:
        """The architecture of a ResNet. Raises UserError for another network: ``what`` is for ResNets only."""
        if not isinstance(self.architecture, Architecture):
            raise UserError(f"{self.source} holds a {self.architecture.name}; {what} for ResNets only")
        return self.architecture
