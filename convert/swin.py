"""Which Swin transformer a set of tensors is: inferred from shapes, written as config keys. Names are Detectron2's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from convert.network_checks import whole_number_of_blocks
from runtime.errors import UserError

STAGES = 4
SIZES = {
    (96, (2, 2, 6, 2)): "t",
    (96, (2, 2, 18, 2)): "s",
    (128, (2, 2, 18, 2)): "b",
    (192, (2, 2, 18, 2)): "l",
}


@dataclass(frozen=True)
class Swin:
    """A Swin transformer of version 1; ``width`` is that of the first stage, ``window`` the side of its windows."""

    width: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    window: int
    hidden: int  # of the feed-forward network of the first stage
    qkv_bias: bool = True
    patch_norm: bool = True

    prefix = "backbone.bottom_up."  # where Detectron2's FPN has its network

    @property
    def name(self) -> str:
        """``swin_t``; with its width and depths where it has no published size. ``_window12`` unless it is 7."""
        size = SIZES.get((self.width, self.depths), f"{self.width}x{'-'.join(map(str, self.depths))}")
        return f"swin_{size}" + (f"_window{self.window}" if self.window != 7 else "")

    def parts(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor with its shape, in the order of the network."""
        yield from (("patch_embed.proj.weight", (self.width, 3, 4, 4)), ("patch_embed.proj.bias", (self.width,)))
        if self.patch_norm:
            yield from (("patch_embed.norm.weight", (self.width,)), ("patch_embed.norm.bias", (self.width,)))
        for stage, depth in enumerate(self.depths):
            c = self.width << stage
            for block in range(depth):
                for name, shape in self._block(stage, c):
                    yield f"layers.{stage}.blocks.{block}.{name}", shape
            if stage < STAGES - 1:
                yield f"layers.{stage}.downsample.reduction.weight", (2 * c, 4 * c)
                for field in ("weight", "bias"):
                    yield f"layers.{stage}.downsample.norm.{field}", (4 * c,)

    def _block(self, stage: int, c: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        hidden = self.hidden << stage
        yield from (("norm1.weight", (c,)), ("norm1.bias", (c,)))
        yield "attn.relative_position_bias_table", ((2 * self.window - 1) ** 2, self.heads[stage])
        yield "attn.qkv.weight", (3 * c, c)
        if self.qkv_bias:
            yield "attn.qkv.bias", (3 * c,)
        yield from (
            ("attn.proj.weight", (c, c)),
            ("attn.proj.bias", (c,)),
            ("norm2.weight", (c,)),
            ("norm2.bias", (c,)),
        )
        yield from (("mlp.fc1.weight", (hidden, c)), ("mlp.fc1.bias", (hidden,)))
        yield from (("mlp.fc2.weight", (c, hidden)), ("mlp.fc2.bias", (c,)))

    def stage_of(self, name: str) -> str:
        """input, or stage 0 .. stage 3."""
        return f"stage {name.split('.')[1]}" if name.startswith("layers.") else "input"

    def config(self) -> dict[str, Any]:
        """The keys that a detector needs for these weights."""
        keys: dict[str, Any] = {
            "EMBED_DIM": self.width,
            "DEPTHS": list(self.depths),
            "NUM_HEADS": list(self.heads),
            "WINDOW_SIZE": self.window,
            "MLP_RATIO": self.hidden / self.width,
            "QKV_BIAS": self.qkv_bias,
            "USE_ABS_POS": False,
            "PATCH_NORM": self.patch_norm,
        }
        return {f"MODEL.SWIN.{key}": value for key, value in keys.items()}

    def notes(self) -> tuple[str, ...]:
        """What a user has to know of these weights in a detector."""
        return ("a detector has a norm of its own on the output of each stage, which starts anew",)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> Swin:
    """The Swin transformer with the tensors of ``shapes``; ``Pieces.load`` compares each with it. Raises UserError."""
    if whole_number_of_blocks(shapes, "layers.") != STAGES:
        raise UserError(f"it has {whole_number_of_blocks(shapes, 'layers.')} stages; Detectron2's Swin has four")
    depths = [whole_number_of_blocks(shapes, f"layers.{stage}.blocks.") for stage in range(STAGES)]
    tables = [shapes.get(f"layers.{s}.blocks.0.attn.relative_position_bias_table", (0, 0)) for s in range(STAGES)]
    heads = [table[-1] for table in tables]
    side = math.isqrt(tables[0][0])
    if side * side != tables[0][0] or side % 2 == 0:
        raise UserError(
            f"its relative position bias table has {tables[0][0]} rows, which are those of no square window"
        )
    return Swin(
        shapes.get("patch_embed.proj.weight", (0,))[0],
        (depths[0], depths[1], depths[2], depths[3]),
        (heads[0], heads[1], heads[2], heads[3]),
        (side + 1) // 2,
        shapes.get("layers.0.blocks.0.mlp.fc1.weight", (0,))[0],
        qkv_bias="layers.0.blocks.0.attn.qkv.bias" in shapes,
        patch_norm="patch_embed.norm.weight" in shapes,
    )
