"""Which vision transformer a set of tensors is: inferred from shapes, checked one by one, written as config keys."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from convert.network_checks import whole_number_of_blocks
from convert.vit_spellings import PERIODS
from runtime.errors import UserError

# width -> attention heads of the published networks, which no tensor shows; others have 64 channels a head
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16}
ROPE_HEADS = {4096: 32}  # of those with rotary positions
SIZES = {(192, 12): "ti", (384, 12): "s", (768, 12): "b", (1024, 24): "l", (1280, 32): "h", (1536, 40): "g"}
SIZES[4096, 40] = "7b"
STAGES = 4  # rows of the report into which the blocks are divided
TANH_GELU = ((1152, 4304, 16), (1536, 6144, 16))  # width, hidden, patch of SigLIP 2's so400m and giant
PATCHES_HELD = (8, 16, 32)  # by the detector, whose pyramid has strides of powers of two


@dataclass(frozen=True)
class VisionTransformer:
    """A plain ViT. ``grid``: patches a side of its training images; ``hidden``: width in its feed-forward network.

    ``cls_position``: the position embedding begins with one for the class token. ``registers``: their number.
    ``rope``: rotary positions (DINOv3) instead of a position embedding; ``grid`` is then 0.
    """

    width: int
    depth: int
    heads: int
    patch: int
    grid: int
    hidden: int
    cls_token: bool = True
    cls_position: bool = True
    registers: int = 0
    rope: bool = False
    layer_scale: bool = False
    gated: bool = False
    qkv_bias: bool = True
    final_norm: bool = True
    norm_eps: float = 1e-6

    prefix = "backbone.net."  # where Detectron2's simple feature pyramid has its ViT

    @property
    def name(self) -> str:
        """``vit_b16``; with its width and depth where it has no published size."""
        size = SIZES.get((self.width, self.depth), f"{self.width}x{self.depth}_")
        registers = f"_reg{self.registers}" if self.registers else ""
        return f"vit_{size}{self.patch}{'_rope' if self.rope else ''}{registers}"

    def parts(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor with its shape, in the order of the network."""
        c, h = self.width, self.hidden
        if self.rope:
            yield PERIODS, (c // self.heads // 4,)
        else:
            yield "pos_embed", (1, self.grid**2 + self.cls_position, c)
        if self.cls_token:
            yield "cls_token", (1, 1, c)
        if self.registers:
            yield "register_tokens", (1, self.registers, c)
        yield "patch_embed.proj.weight", (c, 3, self.patch, self.patch)
        yield "patch_embed.proj.bias", (c,)
        for block in range(self.depth):
            for name, shape in self._block(c, h):
                yield f"blocks.{block}.{name}", shape
        if self.final_norm:
            yield from (("norm.weight", (c,)), ("norm.bias", (c,)))

    def _block(self, c: int, h: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from (("norm1.weight", (c,)), ("norm1.bias", (c,)), ("attn.qkv.weight", (3 * c, c)))
        if self.qkv_bias:
            yield "attn.qkv.bias", (3 * c,)
        yield from (("attn.proj.weight", (c, c)), ("attn.proj.bias", (c,)))
        if self.layer_scale:
            yield "ls1.gamma", (c,)
        yield from (("norm2.weight", (c,)), ("norm2.bias", (c,)))
        first, last, wide = ("w12", "w3", 2 * h) if self.gated else ("fc1", "fc2", h)
        yield from ((f"mlp.{first}.weight", (wide, c)), (f"mlp.{first}.bias", (wide,)))
        yield from ((f"mlp.{last}.weight", (c, h)), (f"mlp.{last}.bias", (c,)))
        if self.layer_scale:
            yield "ls2.gamma", (c,)

    def stage_of(self, name: str) -> str:
        """The row of the report that a tensor belongs to: input, a quarter of the blocks, or the final norm."""
        if not name.startswith("blocks."):
            return "norm" if name.startswith("norm.") else "input"
        return self.stages()[int(name.split(".")[1])]

    def stages(self) -> list[str]:
        """The row of each block: ``blocks 0-2`` for the first three of twelve."""
        step = max(1, math.ceil(self.depth / STAGES))
        starts = [block - block % step for block in range(self.depth)]
        return [f"blocks {a}-{min(a + step, self.depth) - 1}" for a in starts]

    def config(self) -> dict[str, Any]:
        """The keys that a detector needs for these weights; none is left to its default."""
        keys: dict[str, Any] = {
            "EMBED_DIM": self.width,
            "DEPTH": self.depth,
            "NUM_HEADS": self.heads,
            "PATCH_SIZE": self.patch,
            "MLP_RATIO": self.mlp_ratio,
            "QKV_BIAS": self.qkv_bias,
            "NORM_EPS": self.norm_eps,
            "LAYER_SCALE": self.layer_scale,
            "FEED_FORWARD": "swiglu" if self.gated else "mlp",
            "ROPE": self.rope,
            "USE_ABS_POS": not self.rope,
        }
        if self.rope:
            keys["USE_REL_POS"] = False
        else:
            keys |= {"PRETRAIN_IMG_SIZE": self.grid * self.patch, "PRETRAIN_CLS_TOKEN": self.cls_position}
        return {f"MODEL.VIT.{key}": value for key, value in keys.items()}

    @property
    def mlp_ratio(self) -> float:
        """From which the detector makes ``hidden``: int(width * ratio), of which a gated network takes two thirds."""
        wanted = self.hidden * 3 // 2 if self.gated else self.hidden
        ratio = wanted / self.width
        return ratio if int(self.width * ratio) == wanted else math.nextafter(ratio, math.inf)

    def notes(self) -> tuple[str, ...]:
        """What a user has to know of these weights in a detector."""
        notes = [
            f"position embedding: a grid of {self.grid} x {self.grid}, kept as it is; the detector resamples it to the "
            "grid of its images (bicubic, as Detectron2 does)"
        ]
        if self.rope:
            notes = ["rotary positions: the detector computes them for the grid of its images, from the periods here"]
        tokens = {"the class token": "CLS_TOKEN True"} if self.cls_token else {}
        if self.registers:
            tokens[f"{self.registers} register tokens"] = f"REGISTERS {self.registers}"
        if tokens:
            keys = " ".join(f"MODEL.VIT.{key}" for key in tokens.values())
            them = "them" if self.registers else "it"
            notes.append(
                f"{' and '.join(tokens)}: in the file; ViTDet leaves {them} out, a detector without windows "
                f"takes {them} with {keys}"
            )
        if self.final_norm:
            notes.append("the final norm: in the file; ViTDet leaves it out, MODEL.VIT.FINAL_NORM True takes it")
        if self.patch not in PATCHES_HELD:
            notes.append(
                f"patches of {self.patch} pixels are kept as they are; a detector here needs patches of "
                f"{', '.join(map(str, PATCHES_HELD))}, the strides of its pyramid, and refuses others; --patch-size 16 "
                "resamples them"
            )
        return tuple(notes)


def infer(
    shapes: Mapping[str, tuple[int, ...]], heads: int | None = None, norm_eps: float = 1e-6, rotary: bool = False
) -> VisionTransformer:
    """The ViT with the tensors of ``shapes`` (the detector's names); ``Pieces.load`` compares each with it.

    ``heads``: where it is known, since only the periods of rotary positions show it. ``rotary``: it has such positions,
    though ``shapes`` may not have their periods. Raises UserError for a missing block, and for positions that the
    detector's ViT cannot hold.
    """
    patches = shapes.get("patch_embed.proj.weight", ())
    if len(patches) != 4 or patches[2] != patches[3] or patches[1] != 3:
        raise UserError(
            f"its patch embedding is {'x'.join(map(str, patches)) or 'missing'}, not C x 3 x P x P of RGB images"
        )
    width, patch = patches[0], patches[2]
    depth = whole_number_of_blocks(shapes, "blocks.")
    rope = rotary or PERIODS in shapes
    grid, cls_position = (0, False) if rope else _grid(shapes, width)
    if rope and "pos_embed" in shapes:
        raise UserError(
            "it has a position embedding beside rotary positions (EVA-02); the detector's ViT has one of them"
        )
    gated = "blocks.0.mlp.w12.weight" in shapes
    last = shapes.get("blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc2.weight", (0, 0))
    if gated and last[-1] % 8:
        raise UserError(f"its SwiGLU is {last[-1]} wide; the detector's, as DINOv2's, has a multiple of 8")
    registers = shapes["register_tokens"][1] if len(shapes.get("register_tokens", ())) == 3 else 0
    if (width, last[-1], patch) in TANH_GELU and "cls_token" not in shapes and not registers:
        raise UserError("it is a ViT of SigLIP 2, which computes GELU by tanh; Detectron2's ViT computes it exactly")
    return VisionTransformer(
        width,
        depth,
        _rope_heads(shapes, width, heads) if rope else _heads(width, heads),
        patch,
        grid,
        last[-1],
        cls_token="cls_token" in shapes,
        cls_position=cls_position,
        registers=registers,
        rope=rope,
        layer_scale="blocks.0.ls1.gamma" in shapes,
        gated=gated,
        qkv_bias="blocks.0.attn.qkv.bias" in shapes,
        final_norm="norm.weight" in shapes,
        norm_eps=norm_eps,
    )


def _heads(width: int, heads: int | None) -> int:
    heads = heads or HEADS.get(width) or (width // 64 if width % 64 == 0 else 0)
    if heads < 1 or width % heads:
        raise UserError(
            f"its number of attention heads cannot be told from a width of {width}; say it with --heads, a divisor of "
            f"{width}"
        )
    return heads


def _rope_heads(shapes: Mapping[str, tuple[int, ...]], width: int, heads: int | None) -> int:
    """Heads of a network with rotary positions, which have one period for each four channels of a head."""
    periods = shapes.get(PERIODS)
    if periods is None:
        heads = heads or ROPE_HEADS.get(width) or (width // 64 if width % 64 == 0 else 0)
        if heads < 1 or width % (4 * heads):
            raise UserError(
                f"its number of attention heads cannot be told from a width of {width}; say it with --heads, a divisor "
                f"of {width // 4}"
            )
        return heads
    shown = width // (4 * periods[0]) if len(periods) == 1 else 0
    if not shown or 4 * periods[0] * shown != width:
        raise UserError(f"its {PERIODS} is {'x'.join(map(str, periods))}, which no heads of a width of {width} have")
    if heads not in (None, shown):
        raise UserError(f"its {PERIODS} are those of {shown} attention heads, not of {heads}: leave out --heads")
    return shown


def _grid(shapes: Mapping[str, tuple[int, ...]], width: int) -> tuple[int, bool]:
    """Side of the grid of the position embedding, and whether one entry comes before the grid."""
    positions = shapes.get("pos_embed")
    if positions is None:
        raise UserError(
            "it has no position embedding (pos_embed): its positions are rotary or relative (EVA-02, BEiT), which the "
            "detector's ViT does not compute; DINOv3's rotary positions are known by rope_embed.periods"
        )
    if len(positions) != 3 or positions[2] != width:
        raise UserError(f"its pos_embed is {'x'.join(map(str, positions))}, not 1 x positions x {width}")
    count = positions[1]
    for before in (1, 0) if "cls_token" in shapes else (0, 1):
        side = math.isqrt(max(count - before, 0))
        if side and side * side == count - before:
            return side, bool(before)
    raise UserError(
        f"its pos_embed has {count} positions, which are not those of a square grid: Detectron2's ViT needs one"
    )
