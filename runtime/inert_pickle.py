"""Python's own unpickler, without the opcodes that cost more than the bytes that ask for them.

A pickle is a program for a small machine. Besides calling what it names, which :mod:`convert.safe_pickle` prevents, it
can keep that machine busy: 300 bytes build a tuple that takes 2**60 steps to hash or print, ten bytes ask for a memo
of 8 GB. Here nothing but text is hashed (a dict keeps its text keys, a set is a list), and lengths are checked against
the bytes that are left.

This is the unpickler in pure Python: the one in C cannot be changed in this way. A checkpoint's pickle has some ten
thousand opcodes, which take a few milliseconds; the tensors' bytes are not among them.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

MAX_INTEGER = 1024  # bytes of one integer: hashing and printing a longer one would take long
MAX_ITEMS = 64  # of an argument that is copied: the dimensions of a tensor
_MEMO_SLACK = 1 << 20  # a pickler numbers its memo from 0 without gaps; this much is forgiven


class BoundedFile:
    """The rest of ``file``: no request reads, or reserves memory for, more than is left."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        start = file.tell()
        self.left = file.seek(0, 2) - start
        file.seek(start)
        self.size = self.left

    def read(self, count: int) -> bytes:
        """``count`` bytes; EOFError if there are fewer."""
        if not 0 <= count <= self.left:
            raise EOFError("cut short")
        self.left -= count
        return self._file.read(count)

    def readline(self) -> bytes:
        """The bytes up to and with the next line break, or to the end."""
        line = self._file.readline()
        self.left -= len(line)
        return line

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill ``buffer``."""
        buffer[:] = self.read(len(buffer))
        return len(buffer)


class InertUnpickler(pickle._Unpickler):
    """An unpickler whose work is bounded by the length of its stream.

    Subclasses decide in ``find_class`` what a name stands for, in ``call`` and ``set_state`` what is done to it.
    """

    stack: list[Any]
    memo: dict[int, Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO) -> None:
        self._source = BoundedFile(file)
        super().__init__(self._source, encoding="latin1")
        self._budget = 4 * self._source.size + (1 << 20)

    def charge(self, amount: int) -> None:
        """Account for ``amount`` bytes or items that a call copies. Raises UnpicklingError once it is too much."""
        self._budget -= amount
        if self._budget < 0:
            raise pickle.UnpicklingError("it would expand to a multiple of its size")

    def call(self, function: Any, arguments: Any) -> Any:
        """What takes the place of ``function(*arguments)``."""
        raise NotImplementedError

    def set_state(self, value: Any, state: Any) -> None:
        """What takes the place of restoring the attributes of ``value``."""
        raise NotImplementedError

    def items_of(self, value: Any) -> dict[str, Any] | None:
        """The dict that takes what the stream stores by key in ``value``; None where nothing does."""
        return value if isinstance(value, dict) else None

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], arguments)

    def _new_object_with_keywords(self) -> None:
        self.stack.pop()  # keyword arguments: no stand-in takes any
        self._reduce()

    def _instance(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        arguments = self.pop_mark()
        self.append(self.call(self.find_class(module, name), arguments))

    def _object(self) -> None:
        function, *arguments = self.pop_mark()
        self.append(self.call(function, arguments))

    def _build(self) -> None:
        state = self.stack.pop()
        self.set_state(self.stack[-1], state)

    def _extension(self) -> None:
        raise pickle.UnpicklingError("an extension code")  # names an object by a number of the reading program

    def _set(self) -> None:
        self.append([])

    def _frozen_set(self) -> None:
        items = self.pop_mark()  # first: it replaces ``self.append``
        self.append(items)

    def _add_items(self) -> None:
        items = self.pop_mark()
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def _append(self) -> None:
        value = self.stack.pop()
        if isinstance(self.stack[-1], list):
            self.stack[-1].append(value)

    def _set_item(self) -> None:
        key, value = self.stack[-2:]
        del self.stack[-2:]
        self._update([key, value])

    def _update(self, pairs: list[Any]) -> None:
        # text keys alone: names of tensors are text, and only text is hashed in a time that nobody can choose
        if (target := self.items_of(self.stack[-1])) is not None:
            target.update((key, value) for key, value in zip(pairs[::2], pairs[1::2]) if isinstance(key, str))

    def _dict(self) -> None:
        pairs = self.pop_mark()
        self.append({})
        self._update(pairs)

    def _memoize(self, index: int) -> None:
        if index > len(self.memo) + _MEMO_SLACK:
            raise pickle.UnpicklingError("a memo index of its pickle is beyond its length")
        self.memo[index] = self.stack[-1]

    def _long(self) -> None:
        (size,) = struct.unpack("<i", self.read(4))
        if not 0 <= size <= MAX_INTEGER:
            raise pickle.UnpicklingError("an integer of more than a thousand bytes")
        self.append(int.from_bytes(self.read(size), "little", signed=True))

    def _integer_as_text(self) -> None:
        line = self.readline()[:-1].rstrip(b"L")
        if len(line) > MAX_INTEGER:
            raise pickle.UnpicklingError("an integer of more than a thousand digits")
        self.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line, 0))

    def _byte_array(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))

    dispatch |= {
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.NEWOBJ_EX[0]: _new_object_with_keywords,
        pickle.INST[0]: _instance,
        pickle.OBJ[0]: _object,
        pickle.BUILD[0]: _build,
        pickle.EXT1[0]: _extension,
        pickle.EXT2[0]: _extension,
        pickle.EXT4[0]: _extension,
        pickle.APPEND[0]: _append,
        pickle.APPENDS[0]: _add_items,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: lambda self: self._update(self.pop_mark()),
        pickle.DICT[0]: _dict,
        pickle.EMPTY_SET[0]: _set,
        pickle.FROZENSET[0]: _frozen_set,
        pickle.ADDITEMS[0]: _add_items,
        pickle.PUT[0]: lambda self: self._memoize(int(self.readline()[:-1])),
        pickle.BINPUT[0]: lambda self: self._memoize(self.read(1)[0]),
        pickle.LONG_BINPUT[0]: lambda self: self._memoize(int.from_bytes(self.read(4), "little")),
        pickle.INT[0]: _integer_as_text,
        pickle.LONG[0]: _integer_as_text,
        pickle.LONG4[0]: _long,
        pickle.BYTEARRAY8[0]: _byte_array,
    }
