"""Any checkpoint file -> its tensors under canonical names. The first bytes decide the format, not the name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convert.lazy_array import LazyArray, from_numpy
from convert.safe_pickle import PickledArray, Shell, load_pickle
from convert.safetensors_file import is_safetensors, read_safetensors
from convert.torch_archive import is_legacy, read_legacy, read_zip
from runtime.atomic import read_json
from runtime.errors import UserError
from runtime.listing import listed

# what DistributedDataParallel, torch.compile, FSDP and activation checkpointing add to names, at any level
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
IN_MODULES = ("_modules", "_parameters", "_buffers")  # where a pickled module has what its state dict names
MAX_INDEX = 1 << 24  # bytes of the index of a sharded checkpoint
MAX_NAME, MAX_PARTS = 1000, 60  # of a tensor: characters, and words between its dots
MAX_DEPTH = MAX_PARTS  # dicts inside dicts: VISSL goes five deep, a pickled module twice as deep as its names

# first bytes -> what the file is, for files that are not checkpoints
OTHER_FORMATS = {
    b"<": "an HTML or XML page, not a checkpoint: the download failed or needs a login",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run `git lfs pull`",
    b"\x1f\x8b": "gzip-compressed: unpack it first",
    b"BZh": "bzip2-compressed: unpack it first",
    b"\xfd7zXZ": "xz-compressed: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"\x93NUMPY": "a single numpy array, not a checkpoint",
    b"\x89HDF": "an HDF5 file (Keras): export the weights to PyTorch first",
    b"\x89PNG": "an image, not a checkpoint",
    b"\xff\xd8\xff": "an image, not a checkpoint",
}


@dataclass
class Checkpoint:
    """The tensors of one file. Names are dotted paths from the top, without ``module.`` and ``_orig_mod.``."""

    path: Path
    tensors: dict[str, LazyArray] = field(default_factory=dict)
    shards: tuple[Path, ...] = ()  # the files that ``path`` is the index of
    source_names: dict[str, str] = field(default_factory=dict)  # canonical name -> the path as the file has it
    marks: frozenset[str] = frozenset()  # the keys of the top level
    author: str = ""  # "__author__" of a Detectron2 file
    config_text: str = ""  # the config that OpenMMLab checkpoints carry as text


def read_checkpoint(path: str | Path, *, checksums: bool = True) -> Checkpoint:
    """Open ``path`` and list its tensors; no tensor's bytes are read yet.

    ``checksums``: check the CRC-32 of a zip file's tensors when they are read.
    Raises UserError, naming the file, for anything that is not a checkpoint, is damaged, or could run code.
    """
    path = Path(path)
    try:
        content = _read(path, checksums)
    except UserError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    checkpoint = Checkpoint(path, shards=content.files if isinstance(content, Shards) else ())
    content = content.tensors if isinstance(content, Shards) else _without_list(content)
    checkpoint.marks = frozenset(k for k in content if isinstance(k, str))
    author = content.get("__author__")
    checkpoint.author = author if isinstance(author, str) else ""
    meta = content.get("meta")
    texts = [meta.get(k) for k in ("config", "cfg")] if isinstance(meta, dict) else []
    checkpoint.config_text = "".join(t for t in texts if isinstance(t, str))
    _collect(checkpoint, content, (), set())
    if "" in checkpoint.tensors:
        raise UserError(f"cannot read {path}: it holds a single tensor without a name, not a checkpoint")
    if not checkpoint.tensors:
        raise UserError(f"cannot read {path}: it contains no tensors")
    return checkpoint


def _without_list(content: Any) -> dict[str, Any]:
    """A list or tuple as a dict by position; its only dict is merged into it, as in ``(state_dict, epoch)``."""
    if isinstance(content, Shell) and content.items:
        return content.items
    if not isinstance(content, list | tuple):
        return content if isinstance(content, dict) else {"": content}
    dicts = [value for value in content if isinstance(value, dict)]
    numbered = {str(i): value for i, value in enumerate(content)}
    if len(dicts) != 1:
        return numbered
    return {**{key: value for key, value in numbered.items() if value is not dicts[0]}, **dicts[0]}


@dataclass(frozen=True)
class Shards:
    """A checkpoint in several files: its tensors, and the files that they are in."""

    tensors: dict[str, LazyArray]
    files: tuple[Path, ...]


def _read_shards(index: Path, checksums: bool) -> Shards:
    """The tensors that ``weight_map`` of an index (NAME.safetensors.index.json) lists, from the files beside it."""
    if index.stat().st_size > MAX_INDEX:
        raise UserError("it is a JSON file too long for the index of a sharded checkpoint")
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise UserError("it is a JSON file without the weight_map of a sharded checkpoint; name the weights' file")
    names = sorted(set(places.values()))
    if strange := [name for name in names if not name or Path(name).name != name]:
        raise UserError(f"its weight_map names {strange[0][:200]!r}, which is not a file beside it")
    shards: dict[str, Any] = {}
    for name in names:
        try:
            shards[name] = _read(index.with_name(name), checksums, may_be_index=False)
        except (UserError, OSError) as error:
            reason = error.strerror or error if isinstance(error, OSError) else error
            raise UserError(f"its shard {name} cannot be read: {reason}") from error
    if missing := [
        key for key, name in places.items() if not isinstance(shards[name], dict) or key not in shards[name]
    ]:
        raise UserError(f"its shards lack tensors that its weight_map names: {listed(missing, 3)}")
    if extra := [key for name in names for key in shards[name] if places.get(key) != name]:
        raise UserError(
            f"its shards hold tensors that its weight_map does not name there: {listed(extra, 3)}; fetch all files of "
            "one version"
        )
    tensors = {key: shards[name][key] for key, name in places.items()}
    return Shards(tensors, tuple(index.with_name(name) for name in names))


def _read(path: Path, checksums: bool, may_be_index: bool = True) -> Any:
    if path.is_dir() and (path / ".metadata").is_file():
        raise UserError(
            "it is a distributed checkpoint (torch.distributed.checkpoint): make one file of it with "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} FILE.pth"
        )
    if path.is_dir():
        raise UserError("it is a folder; name the checkpoint file inside it")
    if path.parts and path.parts[0].endswith(":") and len(path.parts[0]) > 2 and not path.exists():  # not a drive
        raise UserError("it is an address, not a file: download it first and give the path of the file")
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(64)
        if size == 0:
            raise UserError("it is empty")
        for magic, what in OTHER_FORMATS.items():
            if head.lstrip().startswith(magic):
                raise UserError(f"it is {what}")
        if head.startswith(b"PK\x03\x04"):
            return read_zip(path, checksums)
        if is_legacy(head):
            return read_legacy(path)
        if is_safetensors(head, size):
            return read_safetensors(path)
        if may_be_index and head.lstrip().startswith(b"{"):
            return _read_shards(path, checksums)
        file.seek(257)
        if file.read(5) == b"ustar":
            raise UserError(
                "it is a tar archive, which .pth.tar files are not: unpack it, or re-save it if torch < 0.2 wrote it"
            )
        file.seek(0)
        return load_pickle(file)


def _collect(into: Checkpoint, value: Any, path: tuple[str, ...], seen: set[int]) -> None:
    """Walk nested dicts, lists and the attributes of objects, each once, so that shared and cyclic ones terminate."""
    if isinstance(value, PickledArray):
        value = value.content
    if isinstance(value, np.ndarray):
        value = from_numpy(value)
    if isinstance(value, LazyArray):
        _add(into, value, ".".join(path))
    elif isinstance(value, dict | list | tuple | Shell) and len(path) < MAX_DEPTH and id(value) not in seen:
        seen.add(id(value))
        for key, inner in _inside(value):
            _collect(into, inner, (*path, key) if key else path, seen)


def _inside(value: dict[Any, Any] | list[Any] | tuple[Any, ...] | Shell) -> Iterator[tuple[str, Any]]:
    """The named contents of a container. Tensors that a module has as plain attributes are not in its state dict."""
    if isinstance(value, dict):
        yield from ((key, inner) for key, inner in value.items() if isinstance(key, str))
    elif isinstance(value, Shell):
        yield from value.items.items()
        for state in value.states:
            plain = any(key in state for key in IN_MODULES)
            yield from ((k, v) for k, v in state.items() if not (plain and isinstance(v, LazyArray)))
    else:
        yield from ((str(index), inner) for index, inner in enumerate(value))


def _add(into: Checkpoint, tensor: LazyArray, source: str) -> None:
    parts = [part for part in source.split(".") if part and part not in (*WRAPPERS, *IN_MODULES)]
    if len(source) > MAX_NAME or len(parts) > MAX_PARTS:
        raise UserError(f"cannot read {into.path}: a tensor's name is too long ({source[:60]}...)")
    name = ".".join(parts)
    if name in into.tensors:
        raise UserError(
            f"cannot read {into.path}: {into.source_names[name]} and {source} are both {name} without module. and "
            "_orig_mod.; keep one of them"
        )
    into.tensors[name] = tensor
    into.source_names[name] = source
