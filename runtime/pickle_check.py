"""A look through a ``torch.save`` file before torch reads it: whether that would take unbounded time or memory.

``torch.load(weights_only=True)`` executes nothing that a file names, but it hashes what the file uses as keys, and
reserves what it asks for. A tuple of 300 bytes takes 2**60 steps to hash; ``bytearray(2**42)`` takes all memory. The
look uses :class:`runtime.inert_pickle.InertUnpickler`, which does neither, and refuses what no checkpoint contains.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from runtime.errors import UserError
from runtime.inert_pickle import MAX_ITEMS, InertUnpickler

LEGACY_PICKLES = 5  # of a file of torch < 1.6: magic number, protocol, system, the object, the keys of its storages
_HASHABLE = (str, bytes, int, float, complex, type(None))


@dataclass(eq=False)
class _Stand:
    """Stands for an object that the file names, or for the result of a call."""

    name: str = ""


class _Look(InertUnpickler):
    """Builds nothing but containers and plain values; raises UserError for a call or key that would not end."""

    def find_class(self, module: str, name: str) -> _Stand:
        return _Stand(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> _Stand:
        for part in pid if isinstance(pid, tuple) else (pid,):
            _refuse_costly_key(part)
        return _Stand()

    def call(self, function: Any, arguments: Any) -> Any:
        name = function.name.rpartition(".")[2] if isinstance(function, _Stand) else ""
        first = arguments[0] if isinstance(arguments, list | tuple) and arguments else None
        if name in ("bytearray", "bytes") and isinstance(first, int):
            raise UserError("refused: it asks for memory without content")
        if name == "_reconstruct" and (len(arguments) < 2 or arguments[1] != (0,)):
            raise UserError("refused: it asks for a numpy array without content")
        if name == "encode" and isinstance(first, str):
            self.charge(len(first))
        if name in ("set", "frozenset", "OrderedDict", "Counter", "dict") and isinstance(first, list | tuple):
            self.charge(len(first))
            for item in first:
                is_pair = name == "OrderedDict" and isinstance(item, list | tuple) and item
                _refuse_costly_key(item[0] if is_pair else item)
        if name == "Size" and isinstance(first, list | tuple):
            self.charge(len(first))
        return {} if name in ("OrderedDict", "dict", "defaultdict") else _Stand()

    def set_state(self, value: Any, state: Any) -> None:
        if isinstance(state, dict):
            self.charge(len(state))

    def _update(self, pairs: list[Any]) -> None:
        for key in pairs[::2]:
            _refuse_costly_key(key)
        super()._update(pairs)


def _refuse_costly_key(key: Any) -> None:
    parts = key if isinstance(key, tuple) and len(key) <= MAX_ITEMS else (key,)
    for part in parts:
        # beyond 61 bits two integers can have one hash, and a dict of many of those takes quadratic time
        if not isinstance(part, (*_HASHABLE, _Stand)) or (isinstance(part, int) and part.bit_length() > 60):
            raise UserError("refused: a key in it is nested or too large, and would take unbounded time to look up")


def check_torch_file(path: Path) -> None:
    """Raise UserError, without the file's name, if reading the file ``path`` could take unbounded time or memory."""
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"PK\x03\x04":
                _check_zip(path)
                return
            file.seek(0)
            for _ in range(LEGACY_PICKLES):
                _look(file)
    except UserError:
        raise
    except Exception as error:  # a malicious stream can make the unpickler raise nearly any exception
        reason = " ".join(str(error)[:300].split())[:120] or "cut short"
        raise UserError(
            f"not a readable checkpoint, truncated or damaged ({type(error).__name__}: {reason}); fetch it again"
        ) from error


def _check_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise UserError("a compressed zip, which torch.save never writes; unpack it and save it again")
        pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise UserError(f"a zip file with {len(pickles)} data.pkl in it, not a checkpoint of torch.save")
        with archive.open(pickles[0]) as file:
            _look(file)  # type: ignore[arg-type]


def _look(file: BinaryIO) -> None:
    _Look(file).load()
