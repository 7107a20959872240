"""Backbone files: written atomically in the requested formats, and read back safely."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from convert.backbone import Backbone
from convert.checkpoint import Checkpoint, read_checkpoint
from convert.fingerprint import is_file, quick_fingerprint
from convert.pickle_writer import write_pickle
from convert.rename import BLOBS, COUNTER, DETECTRON2, MSRA, TORCHVISION, Layout
from convert.safetensors_file import write_safetensors
from convert.sidecar import config_yaml, sidecar
from runtime.atomic import atomic_path, read_json, write_json, write_text
from runtime.errors import UserError
from runtime.pasteable import pasteable

IN_DETECTOR = ("backbone.net.", "backbone.bottom_up.")  # beginnings of full names
AUTHOR = "self-supervised detection transfer"  # Detectron2 prints it when it reads the file


def output_stem(source: Path, out: str | Path | None, formats: Sequence[str], tail: str = "") -> Path:
    """The output path without a format's suffix: ``out``, or beside ``source`` with ``tail`` added to its name.

    If ``out`` is a folder, or ends in a slash, the default name is used in it. ``_d2`` is added to a default name that
    would be the source itself. Raises UserError if ``out`` is the source.
    """
    if out is not None and (str(out).endswith("/") or Path(out).is_dir()):  # Path drops the slash of a new folder
        return output_stem(Path(out, source.name), None, formats, tail)
    out = Path(out) if out is not None else None
    stem = out if out is not None else source
    for suffix in SUFFIXES:
        stem = stem.with_suffix("") if stem.suffix == suffix else stem
    if out is None:
        own = not tail and source.suffix.lstrip(".") in formats
        return stem.with_name(stem.name + (tail or ("_d2" if own else "")))
    for target in (_with(stem, name) for name in formats):
        if target.exists() and source.exists() and target.samefile(source):
            raise UserError(f"the output {target} would replace its own source; give another name as second argument")
    return stem


def format_of(out: str | None) -> str:
    """The suffix of the output that the user named, without its dot; "" for none, and for a folder."""
    return "" if out is None or out.endswith("/") else Path(out).suffix.lstrip(".")


def replaced(backbone: Backbone, stem: Path) -> tuple[str, ...]:
    """A line for the user if writing ``backbone`` to ``stem`` replaces the backbone of another source, else none."""
    earlier = read_json(_with(stem, "json")).get("source")
    if not isinstance(earlier, dict) or "file" not in earlier:
        return ()
    digests = (earlier.get("sha256"), backbone.source_sha256)
    same = digests[0] == digests[1] if all(digests) else earlier["file"] == backbone.source.name
    name = _with(stem, "json")
    return () if same else (f"note: {name} described the backbone of another {earlier['file']}; it is replaced",)


def write_backbone(
    backbone: Backbone, path: str | Path, formats: Iterable[str] = ("pkl",), *, emit_config: bool = False
) -> list[Path]:
    """Write ``backbone`` as NAME.<format> for each of ``formats``, its sidecar NAME.json, and NAME.yaml if asked for.

    ``path`` is NAME, with or without a format's suffix. Returns the files, each written atomically. Raises UserError
    for a full disk.
    """
    # the heuristics match names by their ends: right for a ResNet's own names, wrong where a norm.weight is one of many
    extra = {"__author__": AUTHOR, "matching_heuristics": not backbone.architecture.prefix}
    if emit_config:
        _refuse_unrelated_config(_with(_stem(path), "yaml"))
    written = _write(backbone, path, formats, backbone.tensors, extra)
    if emit_config:
        target = written[0].with_suffix(".yaml")
        write_text(target, config_yaml(backbone, str(written[0])))
        written.append(target)
    return written


def write_torchvision(backbone: Backbone, path: str | Path, formats: Iterable[str] = ("pth",)) -> list[Path]:
    """Write ``backbone``, a ResNet, as a flat state dict in torchvision's names (no fc), and its sidecar."""
    backbone.resnet("torchvision's names are")
    return _write(backbone, path, formats, _renamed(backbone, TORCHVISION), None)


def write_caffe2(backbone: Backbone, path: str | Path, formats: Iterable[str] = ("pkl",)) -> list[Path]:
    """Write ``backbone``, a ResNet, as a flat pickle in the names of Detectron2's Caffe2 models, and its sidecar."""
    backbone.resnet("Caffe2's names are")
    tensors = {k: v for k, v in _renamed(backbone, MSRA).items() if not k.endswith(COUNTER)}
    return _write(backbone, path, formats, tensors, None)


def _renamed(backbone: Backbone, layout: Layout) -> dict[str, np.ndarray]:
    parts = {DETECTRON2.parse(name): array for name, array in backbone.tensors.items()}
    return {layout.format(part): array for part, array in parts.items() if part}


def _refuse_unrelated_config(target: Path) -> None:
    if target.is_file() and f"{target.stem}." not in target.read_text(errors="replace"):
        raise UserError(f"{target} exists and is not the config of a backbone of this name; give another output name")


def _stem(path: str | Path) -> Path:
    stem = Path(path)
    return stem.with_suffix("") if stem.suffix in SUFFIXES else stem


def _with(stem: Path, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}.{suffix}")


def _write(
    backbone: Backbone,
    path: str | Path,
    formats: Iterable[str],
    tensors: Mapping[str, np.ndarray],
    extra: Mapping[str, Any] | None,
) -> list[Path]:
    """All formats, then the sidecar: ``extra`` None writes the tensors flat, else under "model" beside ``extra``."""
    stem = _stem(path)
    record = _with(stem, "json")
    if record.exists() and not _is_sidecar(record):
        raise UserError(f"{record} exists and is not a backbone's sidecar; give another output name")
    written: dict[Path, str] = {}
    verified = backbone.source_sha256 is not None  # otherwise --no-verify: sha256 takes a third of a conversion
    for name in formats:
        target = _with(stem, name)
        with atomic_path(target) as partial, open(partial, "wb") as file:
            hashed = _Hashed(file) if verified else None
            FORMATS[name](hashed or file, tensors, extra)
            file.flush()
            written[target] = hashed.digest.hexdigest() if hashed else quick_fingerprint(partial)
    content = sidecar(backbone, {p.name: digest for p, digest in written.items()})
    write_json(record, content | {"files": _files_of_equal_conversion(record, content) | content["files"]})
    return [*written, record]


def _files_of_equal_conversion(record: Path, content: Mapping[str, Any]) -> dict[str, str]:
    """Files of an earlier conversion of the same source in sidecar ``record``; the new sidecar keeps their entries."""
    earlier = read_json(record)
    try:
        files = {name: digest for name, digest in earlier["files"].items() if record.with_name(name).is_file()}
        same = all(earlier[key] == content[key] for key in ("family", "encoder", "arch", "source", "config"))
    except (KeyError, AttributeError, TypeError):
        return {}
    return files if same and content["source"]["sha256"] else {}


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


Writer = Callable[[Any, Mapping[str, np.ndarray], "Mapping[str, Any] | None"], None]


def _write_pth(file: Any, tensors: Mapping[str, np.ndarray], extra: Mapping[str, Any] | None) -> None:
    import torch  # only this format needs it

    model = {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}
    torch.save(model if extra is None else {"model": model, **extra}, file)


def _write_safetensors(file: Any, tensors: Mapping[str, np.ndarray], extra: Mapping[str, Any] | None) -> None:
    write_safetensors(file, tensors, {"author": AUTHOR})


FORMATS: dict[str, Writer] = {"pkl": write_pickle, "pth": _write_pth, "safetensors": _write_safetensors}
SUFFIXES = (".tar", ".pth", ".pt", ".ckpt", ".pkl", ".safetensors")


def read_backbone(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Read a backbone file (.pkl, .pth, .safetensors; Detectron2's or Caffe2's names) -> (tensors, sidecar).

    ``tensors``: Detectron2 name (of other networks than ResNets the full one in a detector) -> array, float32
    (``num_batches_tracked`` int64). ``sidecar``: the JSON beside it, or None. Nothing in the file is executed. Raises
    UserError for a file that is not a backbone (an unconverted checkpoint, for example), is damaged or malicious, or is
    not the one its sidecar describes.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    tensors: dict[str, np.ndarray] = {}
    try:
        for name in checkpoint.tensors:
            local = name.removeprefix("model.")
            if local.startswith(IN_DETECTOR):
                tensors[local] = checkpoint.tensors[name].load_float32()
        for part, name in _backbone_names(checkpoint).items():
            tensor = checkpoint.tensors[name]
            tensors[DETECTRON2.format(part)] = tensor.load() if part.is_counter else tensor.load_float32()
    except UserError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if "stem.conv1.weight" not in tensors and not any(name.startswith(IN_DETECTOR) for name in tensors):
        raise UserError(
            f"{path} is not a Detectron2 backbone; convert it first: {pasteable('convert/to_d2.py', [path])}"
        )
    return tensors, read_sidecar(path)


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """The sidecar NAME.json of backbone file ``path``; None if there is none, or if it describes other files.

    A file that was renamed together with its sidecar is recognised by its fingerprint. Raises UserError if the sidecar
    is damaged or describes another file of this name.
    """
    record = path.with_suffix(".json")
    if not _is_sidecar(record):
        return None
    try:
        content = json.loads(record.read_text())
        expected = content["files"].get(path.name)
        recorded = [str(fingerprint) for fingerprint in content["files"].values()]
        is_source = content["source"]["file"] == path.name
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{record} is not a valid backbone sidecar ({type(error).__name__}); convert the checkpoint again"
        ) from error
    if expected is None and is_source:
        return None  # ckpt.json beside ckpt.pth describes the ckpt.pkl that was made from it
    if expected is None:  # renamed together with its sidecar?
        return content if any(is_file(path, fingerprint) for fingerprint in recorded) else None
    if not is_file(path, str(expected)):
        raise UserError(f"{path} is not the file that {record.name} describes (sha256 differs); convert it again")
    return content


def _is_sidecar(record: Path) -> bool:
    return record.is_file() and b'"max_abs_diff"' in record.read_bytes()


def _backbone_names(checkpoint: Checkpoint) -> dict[Any, str]:
    names = {}
    for name in checkpoint.tensors:
        local = name.removeprefix("model.").removeprefix("blobs.")
        for layout in (DETECTRON2, MSRA, BLOBS):
            if part := layout.parse(local):
                names[part] = name
    return names
