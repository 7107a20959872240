"""Which ConvNeXt a set of tensors is: inferred from shapes, written as config keys. Names are the authors'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from convert.network_checks import whole_number_of_blocks
from runtime.errors import UserError

STAGES = 4
SIZES = {
    (40, (2, 2, 6, 2)): "atto",
    (48, (2, 2, 6, 2)): "femto",
    (64, (2, 2, 6, 2)): "pico",
    (80, (2, 2, 8, 2)): "nano",
    (96, (3, 3, 9, 3)): "tiny",
    (96, (3, 3, 27, 3)): "small",
    (128, (3, 3, 27, 3)): "base",
    (192, (3, 3, 27, 3)): "large",
    (256, (3, 3, 27, 3)): "xlarge",
    (352, (3, 3, 27, 3)): "huge",
}
EPS_1E5 = (384, (3, 4, 30, 3))


@dataclass(frozen=True)
class ConvNeXt:
    """Version 1 (``layer_scale``) or 2 (``grn``, global response normalisation), without the classifier's norm."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    layer_scale: bool = True
    grn: bool = False

    prefix = "backbone.bottom_up."  # where Detectron2's FPN has its network

    @property
    def name(self) -> str:
        """``convnext_tiny``; with its first width and depths where it has no published size."""
        size = SIZES.get((self.widths[0], self.depths), f"{self.widths[0]}x{'-'.join(map(str, self.depths))}")
        return f"convnext{'v2' if self.grn else ''}_{size}"

    def parts(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor with its shape, in the order of the network."""
        for stage, (depth, c) in enumerate(zip(self.depths, self.widths)):
            yield from self._reduction(stage, c)
            for block in range(depth):
                for name, shape in self._block(c):
                    yield f"stages.{stage}.{block}.{name}", shape

    def _reduction(self, stage: int, c: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        name, before = f"downsample_layers.{stage}", self.widths[max(stage - 1, 0)]
        kernel = (c, before, 2, 2) if stage else (c, 3, 4, 4)
        conv, norm = ("1", "0") if stage else ("0", "1")
        normed = before if stage else c
        yield from ((f"{name}.{conv}.weight", kernel), (f"{name}.{conv}.bias", (c,)))
        yield from ((f"{name}.{norm}.weight", (normed,)), (f"{name}.{norm}.bias", (normed,)))

    def _block(self, c: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from (("dwconv.weight", (c, 1, 7, 7)), ("dwconv.bias", (c,)), ("norm.weight", (c,)), ("norm.bias", (c,)))
        yield from (("pwconv1.weight", (4 * c, c)), ("pwconv1.bias", (4 * c,)))
        if self.grn:
            yield from (("grn.gamma", (1, 1, 1, 4 * c)), ("grn.beta", (1, 1, 1, 4 * c)))
        yield from (("pwconv2.weight", (c, 4 * c)), ("pwconv2.bias", (c,)))
        if self.layer_scale:
            yield "gamma", (c,)

    def stage_of(self, name: str) -> str:
        """stage 0 .. stage 3; the stem belongs to the first."""
        return f"stage {name.split('.')[1]}"

    def config(self) -> dict[str, Any]:
        """The keys that a detector needs for these weights."""
        return {
            "MODEL.CONVNEXT.DEPTHS": list(self.depths),
            "MODEL.CONVNEXT.DIMS": list(self.widths),
            "MODEL.CONVNEXT.LAYER_SCALE": self.layer_scale,
            "MODEL.CONVNEXT.GRN": self.grn,
        }

    def notes(self) -> tuple[str, ...]:
        """What a user has to know of these weights in a detector."""
        return ("a detector has a norm of its own on the output of each stage, which starts anew",)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> ConvNeXt:
    """The ConvNeXt with the tensors of ``shapes``; ``Pieces.load`` compares each with it. Raises UserError."""
    if whole_number_of_blocks(shapes, "stages.") != STAGES:
        raise UserError(f"it has {whole_number_of_blocks(shapes, 'stages.')} stages; a ConvNeXt has four")
    depths = [whole_number_of_blocks(shapes, f"stages.{stage}.") for stage in range(STAGES)]
    widths = [shapes.get(f"stages.{stage}.0.dwconv.weight", (0,))[0] for stage in range(STAGES)]
    if (widths[0], tuple(depths)) == EPS_1E5:
        raise UserError("it is timm's convnext_xxlarge, whose norms have epsilon 1e-5; those of the detector have 1e-6")
    return ConvNeXt(
        (depths[0], depths[1], depths[2], depths[3]),
        (widths[0], widths[1], widths[2], widths[3]),
        layer_scale="stages.0.0.gamma" in shapes,
        grn="stages.0.0.grn.gamma" in shapes,
    )
