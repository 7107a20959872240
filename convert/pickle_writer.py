"""Writes the .pkl that Detectron2 reads, opcode by opcode, so that numpy 1 and numpy 2 both open it.

numpy 2's own pickles name ``numpy._core``, which numpy 1 lacks; ``numpy.core.multiarray._reconstruct`` exists in both.
Writing the opcodes directly also copies each array's bytes from the source to the file without an intermediate copy.
Protocol 4, without frames (they are optional).
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

_BYTES8 = pickle.BINBYTES8
_MEMO = {"reconstruct": 0, "ndarray": 1, "float32": 2, "int64": 3}


def write_pickle(file: BinaryIO, arrays: Mapping[str, np.ndarray], extra: Mapping[str, Any] | None) -> None:
    """Pickle float32 and int64 arrays: ``{"model": {name: array}, **extra}``, or ``{name: array}`` for extra None."""
    file.write(pickle.PROTO + b"\x04")
    if extra is not None:
        file.write(pickle.EMPTY_DICT + pickle.MARK + _text("model"))
    file.write(pickle.EMPTY_DICT + _definitions() + pickle.MARK)
    for name, array in arrays.items():
        _write_array(file, name, array)
    file.write(pickle.SETITEMS)
    if extra is not None:
        file.write(b"".join(_text(key) + _value(value) for key, value in extra.items()) + pickle.SETITEMS)
    file.write(pickle.STOP)


def _definitions() -> bytes:
    """Opcodes that store the two functions and two dtypes of every array in the memo and leave the stack unchanged."""
    stream = b""
    for slot, name in ((0, "numpy.core.multiarray\n_reconstruct"), (1, "numpy\nndarray")):
        stream += pickle.GLOBAL + name.encode() + b"\n" + pickle.BINPUT + bytes([slot]) + pickle.POP
    for slot, code in ((2, "f4"), (3, "i8")):
        arguments = _text(code) + pickle.NEWFALSE + pickle.NEWTRUE + pickle.TUPLE3
        # dtype state: version 3, little endian, no subarray, no names, no fields, no fixed size, no alignment, no flags
        state = _int(3) + _text("<") + 3 * pickle.NONE + 2 * _int(-1) + _int(0)
        stream += pickle.GLOBAL + b"numpy\ndtype\n" + arguments + pickle.REDUCE
        stream += pickle.MARK + state + pickle.TUPLE + pickle.BUILD + pickle.BINPUT + bytes([slot]) + pickle.POP
    return stream


def _write_array(file: BinaryIO, name: str, array: np.ndarray) -> None:
    array = np.ascontiguousarray(array) if array.ndim else array
    construction = (
        _get("reconstruct") + _get("ndarray") + _int(0) + pickle.TUPLE1 + _bytes(b"b") + pickle.TUPLE3 + pickle.REDUCE
    )
    shape = pickle.MARK + b"".join(_int(n) for n in array.shape) + pickle.TUPLE
    content = memoryview(array.reshape(-1)).cast("B")  # type: ignore[arg-type]
    file.write(_text(name) + construction + pickle.MARK + _int(1) + shape + _get(array.dtype.name) + pickle.NEWFALSE)
    file.write(_BYTES8 + struct.pack("<Q", len(content)))
    file.write(content)
    file.write(pickle.TUPLE + pickle.BUILD)


def _get(name: str) -> bytes:
    return pickle.BINGET + bytes([_MEMO[name]])


def _text(text: str) -> bytes:
    raw = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw


def _bytes(raw: bytes) -> bytes:
    return pickle.SHORT_BINBYTES + bytes([len(raw)]) + raw


def _int(number: int) -> bytes:
    return pickle.BININT + struct.pack("<i", number)


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return pickle.NEWTRUE if value else pickle.NEWFALSE
    return _text(str(value))
