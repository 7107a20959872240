"""Reads pickles as data: every global in the stream is replaced by a stand-in, so nothing in a file is executed.

A pickle can name any importable callable and have it called (opcodes GLOBAL and REDUCE). Here ``find_class`` never
imports: a name becomes a :class:`Shell`, and what the stream does with it is looked up in ``CALLS``. Tensors become
:class:`LazyArray`, numpy arrays are rebuilt from validated bytes. Whatever else lies beside the weights (a scheduler, a
dataclass, ``functools.partial``, an ``omegaconf`` tree) stays a shell: the packages need not be installed, calls of
shells have no effect, and their attributes and items are data like any other.

A name that only an attack needs is an error that names it, although it would have no effect either.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from convert.lazy_array import LazyArray, Storage, unreadable
from runtime.errors import UserError
from runtime.inert_pickle import MAX_ITEMS, InertUnpickler

# What no checkpoint needs and an attack does: a file that names any of it is refused rather than read around.
HARMFUL_MODULES = frozenset(
    {
        *("os", "posix", "nt", "sys", "subprocess", "_posixsubprocess"),
        *("multiprocessing", "threading", "asyncio", "signal"),
        *("shutil", "tempfile", "io", "_io", "socket", "urllib", "http", "ftplib", "smtplib", "webbrowser", "commands"),
        *("importlib", "runpy", "code", "codeop", "ctypes", "operator", "pickle", "marshal", "pip", "pydoc", "doctest"),
        *("pty", "signal", "pdb", "bdb", "profile", "cProfile", "timeit", "trace", "site", "inspect", "platform"),
    }
)
HARMFUL_NAMES = frozenset(
    {
        *(f"{b}.{n}" for b in ("builtins", "__builtin__") for n in ("eval", "exec", "compile", "open", "__import__")),
        *(f"{b}.{n}" for b in ("builtins", "__builtin__") for n in ("execfile", "input", "breakpoint", "apply")),
        *(
            "torch.load",
            "torch.serialization.load",
            "torch.jit.load",
            "torch.jit._serialization.load",
            "torch.hub.load",
            "torch.utils.cpp_extension.load",
        ),
        *("numpy.lib.npyio.load", "numpy.lib._npyio_impl.load"),
        *("numpy.load", "numpy.memmap", "numpy.fromfile", "codecs.open"),
        *("numpy.testing._private.utils.runstring", "pandas.read_pickle", "joblib.load", "dill.loads"),
    }
)

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
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}


@dataclass(frozen=True)
class Expected:
    """What a file should be, for messages about one that is not: its kind, and what to do about a harmful one."""

    kind: str
    remedy: str


CHECKPOINT = Expected("a checkpoint", ". Re-save the weights alone: torch.save(model.state_dict(), FILE)")


class Shell:
    """An object that is neither a tensor nor a plain container. Calling it gives another one.

    What the file stores in it is kept as data: ``items`` by key (a subclass of dict), ``states`` as attributes.
    """

    def __init__(self, name: str) -> None:
        self.name = name  # dotted, as the file has it; of a call's result: of what was called
        self.items: dict[str, Any] = {}
        self.states: list[dict[str, Any]] = []


class PickledDtype(Shell):
    """A numpy dtype under construction: a code such as ``f4``, and its byte order."""

    def __init__(self, code: Any = "", *rest: Any) -> None:
        super().__init__("numpy.dtype")
        self.code = code.lstrip("<>|=") if isinstance(code, str) else ""
        self.order = "<"

    def set_state(self, state: Any) -> None:
        """The state is (version, byte order, ...)."""
        self.order = ">" if isinstance(state, tuple) and len(state) > 1 and state[1] == ">" else "<"

    def numpy(self) -> np.dtype | None:
        """The dtype; None for anything but bool, integers and floats: an object array can hold anything."""
        numbers = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
        return np.dtype(self.order + self.code) if self.code in numbers else None


class PickledArray(Shell):
    """A numpy array under construction: created empty, then given the state (version, shape, dtype, order, bytes)."""

    def __init__(self, content: np.ndarray | LazyArray | None = None) -> None:
        super().__init__("numpy.ndarray")
        self.content = content


def _array(unpickler: SafeUnpickler, content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray | LazyArray:
    if not isinstance(dtype, PickledDtype):
        raise pickle.UnpicklingError("a numpy array without a dtype")
    sizes = _sizes(shape)
    kind = dtype.numpy()
    if kind is None:
        return unreadable(f"numpy {dtype.code[:20]!r}", sizes)
    if isinstance(content, str):  # Python 2 wrote bytes as str; latin1 maps each character back to its byte
        content = _encode(unpickler, content)
    if not isinstance(content, bytes | bytearray):
        raise pickle.UnpicklingError("a numpy array without bytes")
    return np.frombuffer(content, kind).reshape(sizes, order="F" if order == "F" else "C")  # ValueError: wrong size


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > MAX_ITEMS:
        raise pickle.UnpicklingError("a tensor of more than 64 dimensions, or without a shape")
    if not all(isinstance(n, int) and 0 <= n < 1 << 62 for n in values):
        raise pickle.UnpicklingError("a tensor of an impossible shape")
    return tuple(values)


def _from_buffer(unpickler: SafeUnpickler, content: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    # protocol 5 writes an array as numpy's _frombuffer(bytes, dtype, shape, order)
    return PickledArray(_array(unpickler, content, dtype, shape, order))


def _rebuild_tensor(unpickler: SafeUnpickler, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    if not isinstance(storage, Storage) or not isinstance(offset, int):
        raise pickle.UnpicklingError("a tensor without storage")
    # requires_grad, hooks, then what the view does to its storage: torch writes {"neg": True} or {"conj": True}
    changes = rest[2] if len(rest) > 2 and isinstance(rest[2], dict) else {}
    if any(changes.values()):
        return unreadable(f"a view that changes its storage ({', '.join(changes)[:20]})", _sizes(size))
    return LazyArray(storage, offset, _sizes(size), _sizes(stride))


def _rebuild_typed_tensor(unpickler: SafeUnpickler, storage: Any, offset: Any, size: Any, *rest: Any) -> Any:
    # torch's _rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype): float8, uint16 and such
    dtype = rest[3] if len(rest) > 3 else None
    return unreadable(
        dtype.name.removeprefix("torch.") if isinstance(dtype, Shell) else "an unknown type", _sizes(size)
    )


def _rebuild_wrapper(unpickler: SafeUnpickler, kind: Any, dtype: Any, size: Any, *rest: Any) -> Any:
    # a tensor whose numbers lie in others: DTensor, of which each process has a part
    return unreadable(f"a {kind.name[:80]}" if isinstance(kind, Shell) else "a wrapper of tensors", _sizes(size))


def _rebuild_meta(unpickler: SafeUnpickler, dtype: Any, size: Any, *rest: Any) -> Any:
    return unreadable("a tensor without numbers (device meta)", _sizes(size))


def _rebuild_quantised(unpickler: SafeUnpickler, storage: Any, offset: Any, size: Any, *rest: Any) -> Any:
    return unreadable("a quantised tensor", _sizes(size))


def _rebuild_subclass(unpickler: SafeUnpickler, function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    return unpickler.call(function, arguments)  # a tensor or parameter with attributes of its own


def _encode(unpickler: SafeUnpickler, text: Any, encoding: Any = "latin1") -> bytes:
    # protocol 2 writes bytes as codecs.encode(text, "latin1")
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("_codecs.encode to something other than latin1")
    unpickler.charge(len(text))
    return text.encode("latin1")


def _ordered_dict(unpickler: SafeUnpickler, *arguments: Any) -> dict[str, Any]:
    pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []  # Python 2 wrote [[key, value], ...]
    unpickler.charge(len(pairs))
    pairs = [p for p in pairs if isinstance(p, list | tuple) and len(p) == 2 and isinstance(p[0], str)]
    return dict(pairs)


# what calling a name gives; any other name gives a shell
CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda unpickler, *rest: {},
    "builtins.dict": lambda unpickler, *rest: {},
    "_codecs.encode": _encode,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed_tensor,
    "torch._utils._rebuild_wrapper_subclass": _rebuild_wrapper,
    "torch._utils._rebuild_meta_tensor_no_storage": _rebuild_meta,
    "torch._utils._rebuild_qtensor": _rebuild_quantised,
    "torch._utils._rebuild_parameter": lambda unpickler, data, *rest: data,
    "torch._utils._rebuild_parameter_with_state": lambda unpickler, data, *rest: data,
    "torch._tensor._rebuild_from_type_v2": _rebuild_subclass,
    # pickle.dump of tensors, which torch.save does not write: each storage is a torch file of its own
    "torch.storage._load_from_bytes": lambda unpickler, *rest: Storage("a nested torch file", 0, bytes),
    "torch.Size": lambda unpickler, values=(): _sizes(values),
    "numpy.ndarray": lambda unpickler, *rest: PickledArray(),
    "numpy.dtype": lambda unpickler, *rest: PickledDtype(*rest),
}
for _package in ("numpy.core", "numpy._core"):
    CALLS[f"{_package}.multiarray._reconstruct"] = lambda unpickler, *rest: PickledArray()
    CALLS[f"{_package}.numeric._frombuffer"] = _from_buffer


class SafeUnpickler(InertUnpickler):
    """An unpickler that resolves globals to shells and to nothing else.

    ``storage_of`` turns torch's persistent id ``("storage", dtype, key, location, numel, ...)`` into a Storage;
    without it (a plain pickle) such an id is an error.
    """

    def __init__(
        self,
        file: BinaryIO,
        storage_of: Callable[[str, str, int], Storage] | None = None,
        expected: Expected = CHECKPOINT,
    ) -> None:
        super().__init__(file)
        self._storage_of, self._expected = storage_of, expected

    def find_class(self, module: str, name: str) -> Shell:
        """A shell of that name; raises UserError for a name that only an attack needs."""
        full = f"{module}.{name}"
        if module.split(".")[0] in HARMFUL_MODULES or full in HARMFUL_NAMES:
            raise UserError(
                f"it names {full[:200]}, which is not a tensor or a plain value and could run code; it was not "
                f"executed{self._expected.remedy}"
            )
        return Shell(full)

    def call(self, function: Any, arguments: Any) -> Any:
        """What ``CALLS`` has for the name of ``function``; else a shell of its name."""
        if not isinstance(function, Shell) or not isinstance(arguments, tuple | list):
            raise pickle.UnpicklingError("a call of something that is not a name")
        stand_in = CALLS.get(function.name)
        return stand_in(self, *arguments) if stand_in else Shell(function.name)

    def set_state(self, value: Any, state: Any) -> None:
        """Content for a numpy array or dtype; the attributes of anything else are kept as data."""
        if isinstance(value, PickledDtype):
            value.set_state(state)
        elif isinstance(value, PickledArray):
            _, shape, dtype, fortran, content = state
            value.content = _array(self, content, dtype, shape, "F" if fortran else "C")
        elif isinstance(value, Shell):
            with_slots = state if isinstance(state, tuple) and len(state) == 2 else (state,)
            value.states += [part for part in with_slots if isinstance(part, dict)]

    def items_of(self, value: Any) -> dict[str, Any] | None:
        """Of a subclass of dict, the items; its class is not imported."""
        return value.items if isinstance(value, Shell) else super().items_of(value)

    def persistent_load(self, pid: Any) -> Storage | Shell:
        """The storage of one tensor (torch.save keeps the bytes outside the pickle); a shell for a module's class."""
        if self._storage_of is not None and isinstance(pid, tuple) and pid[:1] == ("module",):
            return Shell("a module")  # torch < 1.6 wrote (class, source file, source) here
        if self._storage_of is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("a persistent id that is not a torch storage")
        _, kind, key, _, numel, *_ = pid
        name = kind.name.rpartition(".")[2] if isinstance(kind, Shell) else ""
        if not isinstance(key, str | int) or not isinstance(numel, int) or not 0 <= numel < 1 << 62:
            raise pickle.UnpicklingError("a storage of unknown key or size")
        if name not in STORAGES:
            return Storage(name or "an unknown type", 0, bytes)
        return self._storage_of(str(key), STORAGES[name], numel)


def load_pickle(
    file: BinaryIO,
    storage_of: Callable[[str, str, int], Storage] | None = None,
    expected: Expected = CHECKPOINT,
) -> Any:
    """Read one pickle. Raises UserError for a harmful name and for any stream that is not a valid pickle."""
    try:
        return SafeUnpickler(file, storage_of, expected).load()
    except UserError:
        raise
    except MemoryError as error:
        raise UserError("it is damaged: it asks for more memory than there is") from error
    except Exception as error:  # a malicious stream can make the unpickler raise nearly any exception
        reason = " ".join(str(error)[:400].split())[:120] or "cut short"
        raise UserError(f"it is damaged or not {expected.kind} ({type(error).__name__}: {reason})") from error
