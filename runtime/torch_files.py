"""Checkpoints on disk: written atomically, read without executing anything in them."""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.atomic import atomic_path
from runtime.errors import UserError, disk_full_error


def save_torch(value: Any, path: str | os.PathLike[str]) -> None:
    """``torch.save`` under a temporary name, then rename; a full disk leaves the previous file intact."""
    import torch

    with atomic_path(path) as partial:
        try:
            torch.save(value, partial)
        except RuntimeError as error:
            # the zip writer reports a failed write as RuntimeError("... unexpected pos ...") and keeps no errno
            if "unexpected pos" in str(error) or "PytorchStreamWriter" in str(error):
                raise disk_full_error(OSError(28, "No space left on device"), path) from error
            raise


def load_torch(path: str | os.PathLike[str]) -> Any:
    """Read a ``torch.save`` file onto the CPU with ``weights_only=True``.

    Besides tensors, harmless types of published checkpoints are allowed (argparse.Namespace, numpy arrays and scalars).
    Raises UserError for a file that is missing, empty, truncated or not a checkpoint, and for one that would run code,
    naming the forbidden global.
    """
    import torch

    file = Path(path)
    _refuse_other_files(file)
    try:
        with _allowing(_harmless_types()):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{file}: {_unpickling_reason(str(error))}") from error
    except Exception as error:  # on damaged or forged files torch's unpickler raises errors of any kind
        reason = (str(error) or type(error).__name__).split("\n")[0][:160]
        raise UserError(
            f"{file}: not a readable checkpoint, truncated or damaged ({reason}); fetch it again"
        ) from error


def _refuse_other_files(file: Path) -> None:
    if not file.exists():
        raise UserError(f"{file}: no such file; check the path")
    if file.is_dir():
        raise UserError(f"{file}: is a folder; name a checkpoint file")
    try:
        with open(file, "rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error
    if not head:
        raise UserError(f"{file}: empty file (0 bytes); fetch or write it again")
    if re.match(rb"\s*<(!doctype|html|\?xml|head)", head, re.IGNORECASE):
        raise UserError(f"{file}: this is a web page, not a checkpoint; download the file itself")


# the wordings in which torch's restricted unpickler names an object that it refuses to build
FORBIDDEN = re.compile(
    r"(?:GLOBAL|global|Unsupported class|load unrecognized class|call reduce for)\s+([\w.]+\.[\w.]+)"
)


def _unpickling_reason(message: str) -> str:
    if match := FORBIDDEN.search(message):
        return f"refused: it needs the Python object {match.group(1)}, which could run code; only tensors are read"
    if "weights_only" in message.lower() or "unsupported operand" in message.lower():
        return "refused: it holds something other than tensors and plain values, which could run code"
    return "not a checkpoint that torch can read; fetch it again"


@contextmanager
def _allowing(types: list[Any]) -> Iterator[None]:
    """``torch.serialization.safe_globals``, which torch 2.4 lacks."""
    from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

    before = list(get_safe_globals())
    add_safe_globals(types)
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)


def _harmless_types() -> list[Any]:
    import _codecs

    import numpy as np

    core = getattr(np, "_core", None) or np.core
    dtypes = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")]
    # files written under numpy 1 name numpy.core, under numpy 2 numpy._core: allow both spellings
    named = [
        _under_name(function, module, function.__name__)
        for function in (core.multiarray._reconstruct, core.multiarray.scalar)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    ]
    # the bytes of numpy's values are spelled as text, which torch 2.4 does not know
    return [argparse.Namespace, np.ndarray, np.dtype, *dtypes, *named, _under_name(_codecs.encode, "_codecs", "encode")]


def _under_name(function: Callable[..., Any], module: str, name: str) -> Callable[..., Any]:
    """``function`` under another module and name, by which torch's unpickler looks it up."""

    def call(*args: Any) -> Any:
        return function(*args)

    call.__module__, call.__name__, call.__qualname__ = module, name, name
    return call
