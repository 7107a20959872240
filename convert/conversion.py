"""One checkpoint -> one Backbone: read, recognise, rename, check, verify. Nothing is written here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from convert.architecture import Architecture, infer
from convert.backbone import Backbone, Coverage
from convert.checkpoint import Checkpoint, read_checkpoint
from convert.preprocessing import Preprocessing
from convert.recognition import Encoder, recognise
from convert.recorded_preprocessing import preprocessing_of
from convert.rename import DETECTRON2, TORCHVISION, Part
from runtime.atomic import sha256_file
from runtime.errors import UserError
from runtime.listing import listed


def convert(
    path: str | Path,
    *,
    family: str = "auto",
    encoder: str | None = None,
    prefix: str | None = None,
    preprocessing: Preprocessing | None = None,
    verify: bool = True,
    against: str | None = None,
) -> Backbone:
    """Convert the ResNet encoder of a checkpoint file to Detectron2's names.

    ``family`` is a row of :data:`convert.families.TABLE` or "auto" (recognised by keys); ``encoder`` one of the row's
    encoders (default: the row's own); ``prefix`` names a ResNet of no known family; ``preprocessing`` overrides how
    its images were normalised. ``verify`` runs the source network and the converted one on the same image, refuses any
    difference, checks the file's checksums and hashes it; ``against`` ("detectron2" or "torchvision") compares with
    that package's own model and loader.

    Raises UserError when the file is not a checkpoint, could run code, fits no known family or several, holds no ResNet
    that Detectron2 can build, lacks a tensor, or has NaN or Inf in its weights.
    """
    checkpoint = read_checkpoint(path, checksums=verify)
    recognised = recognise(checkpoint, family, encoder, prefix)
    try:
        architecture = infer({part: checkpoint.tensors[name].shape for part, name in recognised.names.items()})
        arrays = _load(checkpoint, recognised.names, architecture)
        tensors = {DETECTRON2.format(part): array for part, array in arrays.items()}
    except UserError as error:
        raise UserError(f"cannot convert {path}: {error}") from error
    recorded, notes = preprocessing_of(checkpoint, recognised.family, architecture)
    notes += _notes_on_values(arrays)
    preprocessing = preprocessing or recorded
    needed = sum(1 for _ in architecture.parts())
    difference = None
    if verify:
        from convert.verify import compare  # torch is not needed to rename

        difference = compare(arrays, tensors, architecture, stride_in_1x1=preprocessing.stride_in_1x1)
    backbone = Backbone(
        tensors=tensors,
        architecture=architecture,
        preprocessing=preprocessing,
        coverage=Coverage(needed, sum(not p.is_counter for p in arrays), _dropped(checkpoint, recognised)),
        family=recognised.family,
        encoder=recognised.encoder,
        source=Path(path),
        source_sha256=_digest(checkpoint) if verify else None,  # hashing takes longer than converting
        max_abs_diff=difference,
        notes=notes,
    )
    if against:
        from convert.reference_models import REFERENCES

        backbone = replace(backbone, notes=(*notes, REFERENCES[against](backbone)))
    return backbone


def _digest(checkpoint: Checkpoint) -> str:
    """sha256 of the file; of a sharded checkpoint, the sha256 over the digests of its index and its shards."""
    digests = [sha256_file(path) for path in (checkpoint.path, *checkpoint.shards)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _load(checkpoint: Checkpoint, names: Mapping[Part, str], architecture: Architecture) -> dict[Part, np.ndarray]:
    """The arrays in network order, counters after their BN. Raises UserError for integer weights, NaN and Inf."""
    arrays: dict[Part, np.ndarray] = {}
    order = {part: index for index, (part, _) in enumerate(architecture.parts())}
    for part in sorted(
        names, key=lambda p: (order[p._replace(field="running_var") if p.is_counter else p], p.is_counter)
    ):
        tensor = checkpoint.tensors[names[part]]
        if part.is_counter:
            arrays[part] = tensor.load().astype(np.int64).reshape(())
            continue
        if not tensor.is_float:
            raise UserError(f"{checkpoint.source_names[names[part]]} holds {tensor.dtype}, not floating point weights")
        array = tensor.load_float32()
        if part.field == "running_var" and array.size and array.min() < 0:
            where = checkpoint.source_names[names[part]]
            raise UserError(f"{where} holds negative numbers, which no variance is: the file is damaged, or not BN's")
        if not _all_finite(array):
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


def _all_finite(array: np.ndarray) -> bool:
    """Whether no number is NaN or Inf: one pass without a copy, since either makes a sum of squares NaN or Inf."""
    flat = array.reshape(-1)
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.dot(flat, flat)) or np.isfinite(array).all())  # the sum alone may overflow


def _dropped(checkpoint: Checkpoint, encoder: Encoder) -> tuple[str, ...]:
    used = set(encoder.names.values())
    return tuple(source for name, source in checkpoint.source_names.items() if name not in used)
