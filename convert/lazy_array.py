"""A tensor of a checkpoint that has not been read yet: where its bytes are, and how to turn them into an array."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.errors import UserError

# torch dtype -> numpy code of the stored bytes (bfloat16 has none: its 16 bits are widened by hand)
DTYPES = {
    "float32": "f4",
    "float64": "f8",
    "float16": "f2",
    "bfloat16": "u2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint8": "u1",
    "bool": "b1",
    "uint16": "u2",
    "uint32": "u4",
    "uint64": "u8",
    "complex64": "c8",
    "complex128": "c16",
}
MAX_DIMENSIONS = 64  # as numpy and torch
FLOATS = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class Storage:
    """A flat run of ``numel`` numbers in a file; ``read()`` gives their bytes."""

    dtype: str
    numel: int
    read: Callable[[], Any]
    order: str = "<"


@dataclass(frozen=True)
class LazyArray:
    """A view of a storage: offset and strides in elements, as in torch. Nothing is validated before :meth:`load`."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        """Whether it holds floating point numbers, as weights do."""
        return self.storage.dtype in FLOATS

    @property
    def dtype(self) -> str:
        """torch's name of the number type."""
        return self.storage.dtype

    def load(self) -> np.ndarray:
        """The numbers as stored (bfloat16 widened to float32), shape ``self.shape``, without a copy if possible.

        Raises UserError if the view reaches outside its storage.
        """
        if self.dtype not in DTYPES:
            raise UserError(f"it holds {self.dtype}, which the converter does not read")
        numbers = [*self.shape, *self.stride, self.offset]
        if not len(self.shape) == len(self.stride) <= MAX_DIMENSIONS or not all(
            isinstance(n, int) and n >= 0 for n in numbers
        ):
            raise UserError("it is damaged: a tensor has an impossible shape")
        empty = 0 in self.shape
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride))
        if not empty and last < self.storage.numel < math.prod(self.shape):
            raise UserError("a tensor repeats few numbers many times (expand): save it with .contiguous()")
        if not empty and (last >= self.storage.numel or math.prod(self.shape) > self.storage.numel):
            raise UserError("it is damaged: a tensor reaches beyond its storage")
        code = np.dtype(self.storage.order + DTYPES[self.dtype])
        if empty:
            return np.zeros(self.shape, code)
        flat = np.frombuffer(self.storage.read(), code, count=self.storage.numel)
        if _contiguous(self.shape, self.stride):
            array = flat[self.offset : self.offset + math.prod(self.shape)].reshape(self.shape)
        else:
            strides = [s * flat.itemsize for s in self.stride]
            array = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)
        if self.dtype == "bfloat16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array

    def load_float32(self) -> np.ndarray:
        """The numbers as C-ordered native float32, exact for every float type but float64 (rounded)."""
        with np.errstate(over="ignore"):  # values too large for float32 become Inf, which the converter refuses
            return np.ascontiguousarray(self.load(), dtype=np.float32)


def _contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride)):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


def unreadable(dtype: str, shape: tuple[int, ...]) -> LazyArray:
    """A tensor of a type that no backbone has (float8, text, objects): it may lie beside the weights, unread."""
    return LazyArray(Storage(dtype, 0, bytes), 0, shape, (0,) * len(shape))


def from_numpy(array: np.ndarray) -> LazyArray:
    """An array that is already in memory (floats, integers, bool), in the same shape as one that is not."""
    flat = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1)
    strides = tuple(math.prod(array.shape[i + 1 :]) for i in range(array.ndim))
    return LazyArray(Storage(array.dtype.name, flat.size, lambda: flat), 0, array.shape, strides)
