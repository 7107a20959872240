"""What a plan depends on: the images and objects of the data sets, the machine, and the architecture of the weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from convert.architecture import Architecture, infer
from convert.checkpoint import read_checkpoint
from convert.recognition import recognise
from convert.rename import Part
from runtime.errors import UserError
from runtime.free_memory import free_memory
from runtime.listing import counted
from runtime.provenance import usable_cores
from transfer.data.catalog import DatasetSpec, get_dataset
from transfer.data.findings import Annotations
from transfer.data.set_findings import named_findings

FEW_OBJECTS = 20  # of a class in the test sets; its AP then jumps by whole points with single objects
GB = 2**30


@dataclass(frozen=True)
class DataLook:
    """Training and test sets in numbers.

    ``short_side`` and ``long_side`` in pixels: medians over the training images. ``object_side``: median square root of
    a box's area in training, as a share of the short side of its image. ``objects``: class -> (training, test).
    """

    train_images: int
    test_images: int
    short_side: float
    long_side: float
    object_side: float
    objects: Mapping[str, tuple[int, int]]
    findings: tuple[str, ...]

    @property
    def rare(self) -> list[str]:
        """Classes with few test objects."""
        return [name for name, (_, test) in self.objects.items() if test < FEW_OBJECTS]

    def lines(self) -> list[str]:
        """A description for people."""
        train, test = (sum(pair[i] for pair in self.objects.values()) for i in (0, 1))
        fewest = min(self.objects, key=lambda name: self.objects[name][1])
        lines = [
            f"data: {self.train_images} training images with {train} objects, {self.test_images} test images with "
            f"{test}; {counted(len(self.objects), 'class', 'classes')}",
            f"data: images of {self.short_side:.0f} x {self.long_side:.0f} pixels (median short and long side), "
            f"objects of {self.object_side * self.short_side:.0f} pixels (median side)",
        ]
        if self.rare:
            rare = counted(len(self.rare), "class has", "classes have")
            lines.append(
                f"data: {rare} fewer than {FEW_OBJECTS} test objects ({fewest}: "
                f"{self.objects[fewest][1]}), so that AP varies with single objects"
            )
        return lines + [f"finding: {line}" for line in self.findings]


def look_at_data(train: Sequence[str], test: Sequence[str]) -> DataLook:
    """Read the data sets. Raises UserError where one is missing or broken, or where their classes differ."""
    sets = [[get_dataset(name) for name in names] for names in (train, test)]
    first = sets[0][0]
    for spec in (*sets[0], *sets[1]):
        if spec.class_names != first.class_names:
            raise UserError(_different_classes(first, spec))
        spec.check_image_sizes()
    counts = [_objects(specs) for specs in sets]
    sizes, sides = _sizes(sets[0])
    if not len(sides):
        raise UserError(f"data set {', '.join(train)} has no object to train on")
    if not sum(counts[1].values()):
        raise UserError(f"data set {', '.join(test)} has no object to test on")
    return DataLook(
        sum(len(spec.summary.image_ids) for spec in sets[0]),
        sum(len(spec.summary.image_ids) for spec in sets[1]),
        float(np.median(sizes.min(1))),
        float(np.median(sizes.max(1))),
        float(np.median(sides)),
        {name: (counts[0][i], counts[1][i]) for i, name in enumerate(first.class_names)},
        tuple(f"{name}: {finding.line()}" for name, finding in named_findings(*sets)),
    )


def _different_classes(one: DatasetSpec, other: DatasetSpec) -> str:
    here, there = set(one.class_names), set(other.class_names)
    odd = sorted(here ^ there)
    what = f"{odd[0]!r} is in one of them only" if odd else "the same names are in another order"
    return (
        f"data sets {one.name} and {other.name} have different classes: {what}; a detector has one list of classes, so "
        "export the splits together, or as COCO json with the same categories"
    )


def _objects(specs: Sequence[DatasetSpec]) -> Counter[int]:
    return Counter(
        annotation["category_id"]
        for spec in specs
        for record in spec.records()
        for annotation in record["annotations"]
        if not annotation.get("iscrowd")
    )


def _sizes(specs: Sequence[DatasetSpec]) -> tuple[np.ndarray, np.ndarray]:
    """(width, height) of each image, and of each usable box the root of its area over the image's short side."""
    records = [record for spec in specs for record in spec.records()]
    found = Annotations.of(records)
    width, height = (found.boxes[:, 2:] - found.boxes[:, :2]).T if len(found.boxes) else np.zeros((2, 0))
    usable = found.counted & (width > 0) & (height > 0)
    sides = np.sqrt(width[usable] * height[usable]) / found.size[usable].min(1)
    return np.array([(record["width"], record["height"]) for record in records], dtype=float), sides


@dataclass(frozen=True)
class Machine:
    """``memory``: bytes that are free, of the GPU where there is one; None where that is not known."""

    cores: int
    memory: int | None
    gpu: str | None = None

    def line(self) -> str:
        """A description for people."""
        memory = "unknown" if self.memory is None else f"{self.memory / GB:.1f} GB"
        device = f"{self.gpu}, " if self.gpu else "no GPU, "
        return f"machine: {device}{self.cores} cores, {memory} of memory free"


def look_at_machine() -> Machine:
    """The device that a training would use."""
    import torch

    if torch.cuda.is_available():
        return Machine(usable_cores(), torch.cuda.mem_get_info()[0], torch.cuda.get_device_name())
    return Machine(usable_cores(), free_memory())


def look_at_weights(inits: Mapping[str, str]) -> Architecture:
    """The one architecture that all files of weights have; nothing is loaded. Raises UserError."""
    found: dict[str, Architecture] = {}
    for name, file in inits.items():
        checkpoint = read_checkpoint(file, checksums=False)
        encoder = recognise(checkpoint)
        if encoder.layout.network != "resnet":
            raise UserError(
                f"--init {name} holds a {encoder.layout.network}; this command makes plans for ResNets: write a plan "
                "with a config of that network (docs/gap.md)"
            )
        parts = {part: key for part, key in encoder.names.items() if isinstance(part, Part)}
        found[name] = infer({part: checkpoint.tensors[key].shape for part, key in parts.items()})
    first = next(iter(found))
    for name, architecture in found.items():
        if architecture != found[first]:
            raise UserError(
                f"--init {first} is a {found[first].name} and --init {name} a {architecture.name}: one table compares "
                "weights of one architecture; run the command once for each, with an --output of its own"
            )
    return found[first]
