"""The tensors of a network from the pieces of a file: parts joined, and singleton dimensions as Detectron2 has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint
from convert.lazy_array import LazyArray
from convert.network_checks import compare_shapes
from convert.spelling import Piece
from convert.vit_spellings import MASK
from runtime.errors import UserError

# tensors that makers keep in parts, in the order in which the parts are joined along the first dimension
JOINED = (("q", "k", "v"), ("gate", "up"))
# layers of a feed-forward network that one maker or another names alike in both kinds -> the detector's name, and part
GATED_NAMES = (("gate", "w12", "gate"), ("up", "w12", "up"), ("down", "w3", ""), ("fc2", "w3", ""))
PLAIN_NAMES = (("up", "fc1", ""), ("down", "fc2", ""))


class Pieces:
    """The pieces of one network in a checkpoint, by the name of the tensor that they belong to and their part.

    ``zero_keys``: where queries and values have a bias and keys have none, that of the keys is 0.
    """

    def __init__(self, checkpoint: Checkpoint, names: Mapping[Any, str], zero_keys: bool = False) -> None:
        self.checkpoint, self.zero_keys = checkpoint, zero_keys
        self.of: dict[str, dict[str, str]] = {}
        for piece, name in names.items():
            assert isinstance(piece, Piece)
            self.of.setdefault(piece.name, {})[piece.part] = name
        self._rename_packed()
        self._rename_alike()

    def _rename_packed(self) -> None:
        """timm packs SwiGLU's two input layers into fc1, twice as wide as fc2's input: here w12 and w3."""
        for name in [n for n in self.of if n.endswith("mlp.fc1.weight")]:
            other = name.replace("fc1", "fc2")
            if other in self.of and self._plain_shape(name)[:1] == tuple(2 * n for n in self._plain_shape(other)[1:2]):
                for old, new in (("fc1", "w12"), ("fc2", "w3")):
                    for field in ("weight", "bias"):
                        if pieces := self.of.pop(name.replace("fc1.weight", f"{old}.{field}"), None):
                            self.of[name.replace("fc1.weight", f"{new}.{field}")] = pieces

    def _rename_alike(self) -> None:
        """Layers that a maker names alike in plain and gated networks: the names of either."""
        for name in [n for n in self.of if n.endswith("mlp.up.weight")]:
            block = name.removesuffix("up.weight")
            gated = f"{block}gate.weight" in self.of
            for old, new, part in GATED_NAMES if gated else PLAIN_NAMES:
                for field in ("weight", "bias"):
                    if pieces := self.of.pop(f"{block}{old}.{field}", None):
                        self.of.setdefault(f"{block}{new}.{field}", {})[part] = pieces[""]

    def _plain_shape(self, name: str) -> tuple[int, ...]:
        return next(iter(self._tensors(name).values())).shape

    def _tensors(self, name: str) -> dict[str, LazyArray]:
        return {part: self.checkpoint.tensors[source] for part, source in self.of[name].items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor -> its shape when its parts are joined. Raises UserError where a part or its numbers are missing."""
        sources = [source for parts in self.of.values() for source in parts.values()]
        refuse_empty(self.checkpoint, sources)
        if scalar := next((source for source in sources if not self.checkpoint.tensors[source].shape), None):
            raise UserError(
                f"{self.checkpoint.source_names[scalar]} is a single number, which no tensor of a network is"
            )
        return {name: self._shape(name) for name in self.of}

    def _shape(self, name: str) -> tuple[int, ...]:
        tensors = self._tensors(name)
        if "" in tensors:
            shapes = [tensor.shape for tensor in tensors.values()]
            if any(shape != shapes[0] for shape in shapes):
                raise UserError(f"{name} and its mask have different shapes, {' and '.join(map(str, shapes))}")
            return shapes[0]
        order = self._order(name)
        shapes = [tensors[part].shape for part in order if part in tensors]
        if len(shapes) < len(order):
            shapes.insert(1, shapes[0])  # the bias of keys
        if any(shape[1:] != shapes[0][1:] for shape in shapes):
            raise UserError(f"the parts of {name} have different shapes, {' and '.join(map(str, shapes))}")
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def _order(self, name: str) -> tuple[str, ...]:
        here = set(self.of[name])
        if self.zero_keys and name.endswith("qkv.bias") and here == {"q", "v"}:
            return JOINED[0]
        for order in JOINED:
            if here == set(order):
                return order
        raise UserError(f"{name} is there in part only ({', '.join(sorted(here))}): this is half a network")

    def load(self, expected: Mapping[str, tuple[int, ...]], name: str) -> dict[str, np.ndarray]:
        """float32 arrays of all tensors of ``expected``, in its order; ``name`` is the network's.

        A whole tensor stays a view of the mapped file. Raises UserError for integer weights, NaN and Inf, and where a
        shape is not that of any maker.
        """
        squeezed = {key: _fit(key, shape, expected.get(key)) for key, shape in self.shapes().items()}
        compare_shapes(squeezed, expected, name)
        return {key: self._array(key).reshape(shape) for key, shape in expected.items()}

    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """Tensor -> part -> float32 array, as the file has them."""
        return {name: {part: self._read(source) for part, source in parts.items()} for name, parts in self.of.items()}

    def _array(self, name: str) -> np.ndarray:
        parts = self.of[name]
        if "" in parts:
            whole = self._read(parts[""])
            return whole * self._read(parts[MASK]) if MASK in parts else whole
        order = self._order(name)
        arrays = {part: self._read(parts[part]) for part in order if part in parts}
        return np.concatenate([arrays[part] if part in arrays else np.zeros_like(arrays["q"]) for part in order])

    def _read(self, source: str) -> np.ndarray:
        tensor, where = self.checkpoint.tensors[source], self.checkpoint.source_names[source]
        if not tensor.is_float:
            raise UserError(f"{where} holds {tensor.dtype}, not floating point weights")
        array = tensor.load_float32()
        if not is_finite(array):
            if tensor.dtype == "float64" and np.isfinite(tensor.load()).all():
                raise UserError(f"{where} holds numbers too large for float32, which Detectron2 computes in")
            raise UserError(f"{where} holds NaN or Inf: the training diverged; take an earlier checkpoint")
        return array


def refuse_empty(checkpoint: Checkpoint, sources: Iterable[str]) -> None:
    """Raise UserError for a tensor of no elements, which stands for one whose numbers are in another file."""
    if empty := next((source for source in sources if 0 in checkpoint.tensors[source].shape), None):
        raise UserError(
            f"{checkpoint.source_names[empty]} is empty: its numbers are not in this file. DeepSpeed's ZeRO stage 3 "
            "and FSDP keep them in others: join those first (DeepSpeed's zero_to_fp32.py, or a full state dict of FSDP)"
        )


def is_finite(array: np.ndarray) -> bool:
    """Whether no number is NaN or Inf: one pass without a copy, since either makes a sum of squares NaN or Inf."""
    flat = array.reshape(-1)
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.dot(flat, flat)) or np.isfinite(array).all())  # the sum alone may overflow


def _fit(name: str, shape: tuple[int, ...], expected: tuple[int, ...] | None) -> tuple[int, ...]:
    """``expected`` if ``shape`` is that in another maker's form, else ``shape``.

    Some write a linear layer as a 1x1 convolution and a factor per channel as C x 1 x 1; the response normalisation of
    ConvNeXt V2 has C numbers or 1 x 1 x 1 x C.
    """
    if expected is None or shape == expected:
        return shape
    same = shape == (*expected, 1, 1) or (".grn." in name and shape == expected[-1:])
    return expected if same else shape
