"""A ResNet's tensors from a checkpoint, in Detectron2's names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from convert.architecture import Architecture, infer
from convert.assembly import is_finite, refuse_empty
from convert.backbone import Converted
from convert.checkpoint import Checkpoint
from convert.recognition import Encoder
from convert.rename import DETECTRON2, TORCHVISION, Part
from runtime.errors import UserError
from runtime.listing import listed


def convert_resnet(checkpoint: Checkpoint, encoder: Encoder) -> Converted:
    """Raises UserError for what Detectron2's ResNet cannot hold, a missing tensor, and NaN or Inf."""
    names = {part: name for part, name in encoder.names.items() if isinstance(part, Part)}
    refuse_empty(checkpoint, names.values())
    architecture = infer({part: checkpoint.tensors[name].shape for part, name in names.items()})
    arrays = _load(checkpoint, names, architecture)
    tensors = {DETECTRON2.format(part): array for part, array in arrays.items()}

    def compare(stride_in_1x1: bool) -> dict[str, float]:
        from convert.verify import compare  # torch is not needed to rename

        return compare(arrays, tensors, architecture, stride_in_1x1=stride_in_1x1)

    return Converted(architecture, tensors, compare, _notes_on_values(arrays))


def _load(checkpoint: Checkpoint, names: Mapping[Part, str], architecture: Architecture) -> dict[Part, np.ndarray]:
    """The arrays in network order, counters after their BN. Raises UserError for integer weights, NaN and Inf."""
    arrays: dict[Part, np.ndarray] = {}
    order = {part: index for index, (part, _) in enumerate(architecture.parts())}
    for part in sorted(
        names, key=lambda p: (order[p._replace(field="running_var") if p.is_counter else p], p.is_counter)
    ):
        tensor = checkpoint.tensors[names[part]]
        if part.is_counter:
            counter = tensor.load()
            if counter.size != 1:
                where = checkpoint.source_names[names[part]]
                raise UserError(f"{where} holds {counter.size} numbers; the counter of a batch norm is one")
            arrays[part] = counter.astype(np.int64).reshape(())
            continue
        if not tensor.is_float:
            raise UserError(f"{checkpoint.source_names[names[part]]} holds {tensor.dtype}, not floating point weights")
        array = tensor.load_float32()
        if part.field == "running_var" and array.size and array.min() < 0:
            where = checkpoint.source_names[names[part]]
            raise UserError(f"{where} holds negative numbers, which no variance is: the file is damaged, or not BN's")
        if not is_finite(array):
            where = checkpoint.source_names[names[part]]
            if tensor.dtype == "float64" and np.isfinite(tensor.load()).all():
                raise UserError(f"{where} holds numbers too large for float32, which Detectron2 computes in")
            raise UserError(f"{where} holds NaN or Inf: the training diverged; take an earlier checkpoint")
        arrays[part] = array
    if not any(array.any() for part, array in arrays.items() if not part.field):
        raise UserError("all its convolutions are 0: the weights were never filled in, or were lost in saving")
    return arrays


def _notes_on_values(arrays: Mapping[Part, np.ndarray]) -> tuple[str, ...]:
    """What is legal and yet rarely meant: convolutions of zeros, and batch norms that never saw an image."""
    notes = []
    if dead := [TORCHVISION.format(part) for part, array in arrays.items() if not part.field and not array.any()]:
        notes.append(f"{len(dead)} of its convolutions are 0: {listed(dead, 3)}")
    means = [array for part, array in arrays.items() if part.field == "running_mean"]
    variances = [array for part, array in arrays.items() if part.field == "running_var"]
    if not any(array.any() for array in means) and all((array == 1).all() for array in variances):
        notes.append(
            "its batch-norm statistics are those of an untrained network (mean 0, variance 1): it was never run on "
            "images in training mode, or its statistics were not saved"
        )
    return tuple(notes)
