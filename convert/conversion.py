"""One checkpoint -> one Backbone: read, recognise, rename, check, verify. Nothing is written here."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from convert.backbone import Backbone, Coverage
from convert.checkpoint import Checkpoint, read_checkpoint
from convert.hub_config import refuse_other_computation
from convert.network_conversion import convert_network
from convert.preprocessing import Preprocessing
from convert.recognition import Encoder, recognise
from convert.recorded_preprocessing import preprocessing_of
from convert.rename import COUNTER
from convert.resnet_conversion import convert_resnet
from runtime.atomic import sha256_file
from runtime.errors import UserError


def convert(
    path: str | Path,
    *,
    family: str = "auto",
    encoder: str | None = None,
    prefix: str | None = None,
    heads: int | None = None,
    patch_size: int | None = None,
    preprocessing: Preprocessing | None = None,
    verify: bool = True,
    against: str | None = None,
) -> Backbone:
    """Convert the encoder of a checkpoint file (ResNet, plain ViT, ConvNeXt, Swin) to Detectron2's names.

    ``family`` is a row of :data:`convert.families.TABLE` or "auto" (recognised by keys); ``encoder`` one of the row's
    encoders (default: the row's own); ``prefix`` names a network of no known family; ``heads`` is the number of
    attention heads of a ViT, which its tensors do not show (default: the published one of its width); ``patch_size``
    resamples the patch embedding of a ViT, for example from 14 to 16 pixels;
    ``preprocessing`` overrides how its images were normalised. ``verify`` runs the source network and the converted one
    on the same image, refuses any difference, checks the file's checksums and hashes it; ``against`` ("detectron2" or
    "torchvision") compares with that package's own model and loader.

    Raises UserError when the file is not a checkpoint, could run code, fits no known family or several, holds no
    network that Detectron2 can build, lacks a tensor, or has NaN or Inf in its weights.
    """
    checkpoint = read_checkpoint(path, checksums=verify)
    recognised = recognise(checkpoint, family, encoder, prefix)
    try:
        refuse_other_computation(checkpoint, recognised.layout.network)
        if recognised.layout.network == "resnet":
            _refuse_options_of_vits(heads, patch_size)
            converted = convert_resnet(checkpoint, recognised)
        else:
            converted = convert_network(checkpoint, recognised, heads, patch_size)
    except UserError as error:
        raise UserError(f"cannot convert {path}: {error}") from error
    recorded, notes = preprocessing_of(checkpoint, recognised.family, converted.network)
    notes += converted.notes
    preprocessing = preprocessing or recorded
    needed = sum(1 for _ in converted.network.parts())
    difference = converted.compare(preprocessing.stride_in_1x1) if verify else None
    backbone = Backbone(
        tensors=converted.tensors,
        architecture=converted.network,
        preprocessing=preprocessing,
        coverage=Coverage(
            needed, sum(not name.endswith(COUNTER) for name in converted.tensors), _dropped(checkpoint, recognised)
        ),
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


def _refuse_options_of_vits(heads: int | None, patch_size: int | None) -> None:
    if heads is not None:
        raise UserError("it holds a ResNet, which has no attention heads: leave out --heads")
    if patch_size is not None:
        raise UserError("it holds a ResNet, which has no patches: leave out --patch-size")


def _digest(checkpoint: Checkpoint) -> str:
    """sha256 of the file; of a sharded checkpoint, the sha256 over the digests of its index and its shards."""
    digests = [sha256_file(path) for path in (checkpoint.path, *checkpoint.shards)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _dropped(checkpoint: Checkpoint, encoder: Encoder) -> tuple[str, ...]:
    used = set(encoder.names.values())
    return tuple(source for name, source in checkpoint.source_names.items() if name not in used)
