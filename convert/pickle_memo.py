"""A check of a pickle's memo indices before the pickle is read.

CPython's unpickler keeps its memo as an array as long as the largest index: ten bytes (LONG_BINPUT 0x1fffffff) make it
allocate 8 GB. In a valid pickle each index is smaller than the number of opcodes before it.
"""

from __future__ import annotations

import pickle
import pickletools
from mmap import mmap

from runtime.errors import UserError

_LENGTHS = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4}
_LENGTHS |= {pickletools.TAKEN_FROM_ARGUMENT4U: 4, pickletools.TAKEN_FROM_ARGUMENT8U: 8}
_FIXED = [-1] * 256  # opcode -> bytes of its argument, -1 where that is not fixed
_PREFIXED: dict[int, int] = {}  # opcode -> bytes of the length that its argument begins with
_LINES: dict[int, int] = {}  # opcode -> lines of text that its argument takes
for _code in pickletools.opcodes:
    _op = ord(_code.code)
    if _code.arg is None or _code.arg.n >= 0:
        _FIXED[_op] = 0 if _code.arg is None else _code.arg.n
    elif _code.arg.n == pickletools.UP_TO_NEWLINE:
        _LINES[_op] = 2 if _code.name in ("GLOBAL", "INST") else 1
    else:
        _PREFIXED[_op] = _LENGTHS[_code.arg.n]
_LONG_BINPUT, _PUT, _STOP = pickle.LONG_BINPUT[0], pickle.PUT[0], pickle.STOP[0]
_FIXED[_LONG_BINPUT] = _FIXED[_STOP] = -1  # handled separately below


def refuse_wild_memo(content: bytes | mmap, start: int = 0) -> None:
    """Raise UserError if the pickle at ``start`` of ``content`` stores to a memo index that it cannot have reached.

    Returns without an error where the stream stops being a pickle: the unpickler fails at the same place, and executes
    no opcode after it.
    """
    position, end = start, len(content)
    while position < end:
        op = content[position]
        position += 1
        size = _FIXED[op]
        if size >= 0:
            position += size
        elif op in _PREFIXED:
            width = _PREFIXED[op]
            position += width + int.from_bytes(content[position : position + width], "little")
        elif op == _LONG_BINPUT:
            _check(int.from_bytes(content[position : position + 4], "little"), position - start)
            position += 4
        elif op in _LINES:
            for _ in range(_LINES[op]):
                begin, position = position, content.find(b"\n", position) + 1
                if not position:
                    return
            if op == _PUT:
                try:
                    _check(int(content[begin : position - 1]), begin - start)
                except ValueError:  # the unpickler does not accept what int() does not
                    return
        else:  # STOP, or not an opcode
            return


def _check(index: int, read: int) -> None:
    if index > read:
        raise UserError("it is damaged: a memo index of its pickle is beyond its length")
