"""Reads pickles as data: every global in the stream is replaced by a stand-in, so nothing in a file is executed.

A pickle can name any importable callable and have it called (opcodes GLOBAL and REDUCE). Here ``find_class`` never
imports: it looks the name up in a table of stand-ins. Tensors become :class:`LazyArray`, numpy arrays are rebuilt from
validated bytes, and harmless objects that checkpoints often contain (``argparse.Namespace``, ``omegaconf`` configs ...)
become empty shells. A name that is not in the table is an error that names it.

The stand-ins must be safe against whatever the stream does with them. The unpickler can call them with any arguments
(REDUCE, NEWOBJ), give them any state (BUILD), and set items on what they return (SETITEMS, APPENDS). Hence functions
are wrapped in lambdas, and each file gets a table of its own: what BUILD sets on a stand-in dies with the table.
"""

from __future__ import annotations

import collections
import io
import mmap
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from convert.lazy_array import DTYPES, LazyArray, Storage
from convert.pickle_memo import refuse_wild_memo
from runtime.errors import UserError

PLAIN_TYPES: tuple[str, ...] = ("list", "dict", "tuple", "int", "long", "float", "complex", "str", "bytes", "bytearray")
PLAIN_TYPES += ("bool", "object", "slice", "range")
# objects that checkpoints contain besides tensors; they are read as empty shells and never used
SHELLS = frozenset(
    {
        "argparse.Namespace",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "pathlib.PurePosixPath",
        "pathlib._local.PosixPath",
        "datetime.datetime",
        "datetime.timedelta",
        "torch.device",
        "torch.Generator",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
        "torch.torch_version.TorchVersion",
        "collections.Counter",
        "collections.deque",
        "typing.Any",  # of omegaconf's nodes, which solo-learn's checkpoints hold
        "types.SimpleNamespace",
        "uuid.UUID",
        "easydict.EasyDict",
        "yacs.config.CfgNode",
        "fvcore.common.config.CfgNode",
        "detectron2.config.config.CfgNode",
        *(f"{b}.{n}" for b in ("builtins", "__builtin__") for n in PLAIN_TYPES),
        *(f"torch.{name}" for name in DTYPES),
    }
)
# packages whose objects are read as shells; the packages are not imported
SHELL_PACKAGES = ("omegaconf.", "pytorch_lightning.", "lightning.", "lightning_fabric.", "mmengine.", "mmcv.", "vissl.")

STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}


class Shell:
    """An object that is neither a tensor nor a container: it accepts any arguments and state, and stores nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Shell:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Ignore a list item (pickle's APPEND)."""

    def extend(self, values: Any) -> None:
        """Ignore list items (pickle's APPENDS)."""


class PickledArray(Shell):
    """A numpy array under construction: created empty, then given the state (version, shape, dtype, order, bytes)."""

    array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.array = _array(content, dtype, shape, "F" if fortran else "C")


class PickledDtype(Shell):
    """A numpy dtype under construction. Only number types are accepted: object arrays hold anything."""

    def __init__(self, code: str = "", *args: Any) -> None:
        self.code = code.lstrip("<>|=") if isinstance(code, str) else ""
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def numpy(self) -> np.dtype:
        """The dtype; UnpicklingError for anything but bool, integers and floats."""
        if self.code not in {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}:
            raise pickle.UnpicklingError(f"numpy dtype {self.code[:20]!r} is not a number type")
        return np.dtype(self.order + self.code)


def _array(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    # Python 2 wrote bytes as str; latin1 maps each character back to its byte
    raw = content.encode("latin1") if isinstance(content, str) else content
    if not isinstance(dtype, PickledDtype) or not isinstance(raw, bytes | bytearray):
        raise pickle.UnpicklingError("a numpy array without plain dtype and bytes")
    flat = np.frombuffer(raw, dtype.numpy())
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise pickle.UnpicklingError("a numpy array without a shape")
    return flat.reshape(shape, order="F" if order == "F" else "C")  # reshape raises ValueError for a wrong size


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    # protocol 5 writes an array as numpy's _frombuffer(bytes, dtype, shape, order)
    pickled = PickledArray()
    pickled.array = _array(content, dtype, shape, order)
    return pickled


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> LazyArray:
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor without storage")
    return LazyArray(storage, offset, tuple(size), tuple(stride))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # protocol 2 writes bytes as codecs.encode(text, "latin1")
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


def _stand_ins() -> dict[str, Any]:
    """Global name -> stand-in. Built anew for each file, so that no file can change what the next one gets."""
    numpy_modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    table: dict[str, Any] = {
        "collections.OrderedDict": collections.OrderedDict,
        "collections.defaultdict": lambda *args: {},
        "builtins.set": set,
        "__builtin__.set": set,
        "builtins.frozenset": frozenset,
        "__builtin__.frozenset": frozenset,
        "_codecs.encode": lambda *args: _encode(*args),
        "torch._utils._rebuild_tensor": lambda *args: _rebuild_tensor(*args),
        "torch._utils._rebuild_tensor_v2": lambda *args: _rebuild_tensor(*args),
        "torch._utils._rebuild_parameter": lambda data, *rest: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *rest: data,
        "torch.Size": lambda values=(): tuple(values),
        "numpy.ndarray": type("ndarray", (PickledArray,), {}),
        "numpy.dtype": type("dtype", (PickledDtype,), {}),
    }
    for module in numpy_modules:
        table[f"{module}._reconstruct"] = lambda *args: PickledArray()
        table[f"{module}.scalar"] = lambda *args: Shell()
    for module in ("numpy.core.numeric", "numpy._core.numeric"):
        table[f"{module}._frombuffer"] = lambda *args: _from_buffer(*args)
    for name, dtype in STORAGES.items():
        table[f"torch.{name}"] = table[f"torch.storage.{name}"] = dtype
    return table


class SafeUnpickler(pickle.Unpickler):
    """An unpickler that resolves globals to the stand-ins of this module and to nothing else.

    ``storage_of`` turns torch's persistent id ``("storage", dtype, key, location, numel, ...)`` into a Storage;
    without it (a plain pickle) such an id is an error.
    """

    def __init__(self, file: BinaryIO, storage_of: Callable[[str, str, int], Storage] | None = None) -> None:
        super().__init__(file, encoding="latin1")
        self._table = _stand_ins()
        self._storage_of = storage_of

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for ``module.name``; raises UserError with that name if there is none."""
        full = f"{module}.{name}"
        if full in self._table:
            return self._table[full]
        if full in SHELLS or full.startswith(SHELL_PACKAGES):
            return self._table.setdefault(full, type("Shell", (Shell,), {}))
        raise UserError(
            f"it names {full}, which is not a tensor or a plain value and could run code; it was not executed. "
            "Re-save the weights alone: torch.save(model.state_dict(), FILE)"
        )

    def persistent_load(self, pid: Any) -> Storage:
        """The storage of one tensor (torch.save keeps the bytes outside the pickle)."""
        if self._storage_of is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("a persistent id that is not a torch storage")
        _, dtype, key, _, numel, *_ = pid
        if dtype not in DTYPES or not isinstance(numel, int) or numel < 0:
            raise pickle.UnpicklingError("a storage of unknown type or size")
        return self._storage_of(str(key), dtype, numel)


def load_pickle(file: BinaryIO, storage_of: Callable[[str, str, int], Storage] | None = None) -> Any:
    """Read one pickle. Raises UserError for a forbidden global and for any stream that is not a valid pickle."""
    try:
        _check_memo(file)
        return SafeUnpickler(file, storage_of).load()
    except UserError:
        raise
    except MemoryError as error:
        raise UserError("it is damaged: it asks for more memory than there is") from error
    except Exception as error:  # a malicious stream can make the unpickler raise nearly any exception
        reason = " ".join(str(error).split())[:120] or "cut short"
        raise UserError(f"it is damaged or not a checkpoint ({type(error).__name__}: {reason})") from error


def _check_memo(file: BinaryIO) -> None:
    if isinstance(file, io.BytesIO):
        refuse_wild_memo(file.getvalue(), file.tell())
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        refuse_wild_memo(content, file.tell())
