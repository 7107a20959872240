"""Backbone files on disk: written whole or not at all in the formats that are asked for, and read back safely."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from convert.backbone import Backbone
from convert.checkpoint import Checkpoint, read_checkpoint
from convert.pickle_writer import write_pickle
from convert.rename import DETECTRON2, LAYOUTS
from convert.safetensors_file import write_safetensors
from convert.sidecar import sidecar
from runtime.atomic import atomic_path, sha256_file, write_json
from runtime.errors import UserError

AUTHOR = "self-supervised detection transfer"  # Detectron2 prints it when it reads the file


def write_backbone(backbone: Backbone, path: str | Path, formats: Iterable[str] = ("pkl",)) -> list[Path]:
    """Write ``backbone`` beside ``path`` as NAME.<format> for each of ``formats``, then NAME.json, its sidecar.

    Returns the files written, the sidecar last. Each appears whole or not at all; UserError for a full disk.
    """
    stem = Path(path)
    stem = stem.with_suffix("") if stem.suffix.lstrip(".") in (*FORMATS, "json") else stem
    written: dict[Path, str] = {}
    for name in formats:
        target = stem.with_name(f"{stem.name}.{name}")
        with atomic_path(target) as partial, open(partial, "wb") as file:
            hashed = _Hashed(file)
            FORMATS[name](hashed, backbone.tensors)
        written[target] = hashed.digest.hexdigest()
    record = stem.with_name(f"{stem.name}.json")
    write_json(record, sidecar(backbone, {p.name: digest for p, digest in written.items()}))
    return [*written, record]


class _Hashed:
    """A file that hashes what is written to it, so that the sidecar's sha256 costs no second reading."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def _write_pkl(file: Any, tensors: Mapping[str, np.ndarray]) -> None:
    write_pickle(file, tensors, {"__author__": AUTHOR, "matching_heuristics": True})


def _write_pth(file: Any, tensors: Mapping[str, np.ndarray]) -> None:
    import torch  # only this format needs it

    model = {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}
    torch.save({"model": model, "__author__": AUTHOR, "matching_heuristics": True}, file)


def _write_safetensors(file: Any, tensors: Mapping[str, np.ndarray]) -> None:
    write_safetensors(file, tensors, {"author": AUTHOR})


FORMATS: dict[str, Callable[[Any, Mapping[str, np.ndarray]], None]] = {
    "pkl": _write_pkl,
    "pth": _write_pth,
    "safetensors": _write_safetensors,
}


def read_backbone(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Read a backbone file (.pkl, .pth, .safetensors; Detectron2's or Caffe2's names) -> (tensors, sidecar).

    ``tensors``: Detectron2 name -> array, float32 (``num_batches_tracked`` int64). ``sidecar``: the JSON beside it, or
    None. Nothing in the file is executed. Raises UserError for a file that is no backbone (an unconverted checkpoint,
    say), is damaged or hostile, or is not the one its sidecar describes.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    tensors: dict[str, np.ndarray] = {}
    try:
        for part, name in _backbone_names(checkpoint).items():
            tensor = checkpoint.tensors[name]
            tensors[DETECTRON2.format(part)] = tensor.load() if part.is_counter else tensor.load_float32()
    except UserError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if "stem.conv1.weight" not in tensors:
        raise UserError(f"{path} is no Detectron2 backbone; convert it first: python convert/to_d2.py {path}")
    return tensors, read_sidecar(path)


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """The sidecar of backbone file ``path`` (NAME.json), or None; UserError where it is damaged or of another file."""
    record = path.with_suffix(".json")
    if not record.exists():
        return None
    try:
        content = json.loads(record.read_text())
        expected = content["files"].get(path.name)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{record} is no backbone sidecar ({type(error).__name__}); convert the checkpoint again"
        ) from error
    if expected is not None and expected != sha256_file(path):
        raise UserError(f"{path} is not the file that {record.name} describes (sha256 differs); convert it again")
    return content


def _backbone_names(checkpoint: Checkpoint) -> dict[Any, str]:
    found = {}
    for name in checkpoint.tensors:
        local = name.removeprefix("model.").removeprefix("blobs.")
        for layout in (DETECTRON2, LAYOUTS["caffe2"], LAYOUTS["caffe2 blobs"]):
            if part := layout.parse(local):
                found[part] = name
    return found
