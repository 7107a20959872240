"""Which ResNet a set of tensors is: inferred from shapes, checked one by one, written as Detectron2's config keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from convert.rename import BN_FIELDS, SHORTCUT, TORCHVISION, Part
from runtime.errors import UserError
from runtime.listing import listed

# depth -> (bottleneck blocks?, blocks in res2 .. res5); these are all that Detectron2's build_resnet_backbone can build
BLOCKS: dict[int, tuple[bool, tuple[int, int, int, int]]] = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}


@dataclass(frozen=True)
class Architecture:
    """A ResNet of torchvision's topology: ``width`` is the 3x3 convolution's channels in res2, over all ``groups``."""

    depth: int
    stem: int = 64
    res2: int = 256
    width: int = 64
    groups: int = 1

    prefix = ""  # Detectron2's loader finds a ResNet's tensors by the ends of their names

    @property
    def bottleneck(self) -> bool:
        """Whether its blocks are 1x1, 3x3, 1x1 (ResNet-50 and deeper)."""
        return BLOCKS[self.depth][0]

    @property
    def blocks(self) -> tuple[int, int, int, int]:
        """Blocks in res2..res5."""
        return BLOCKS[self.depth][1]

    @property
    def name(self) -> str:
        """torchvision's name where it has one, else the depth and what differs (``resnet50w2`` is twice as wide)."""
        plain = f"resnet{self.depth}"
        if not self.bottleneck:
            return plain
        factor = self.stem / 64
        if self.groups > 1:
            return f"resnext{self.depth}_{self.groups}x{self.width // self.groups}d"
        if (self.stem, self.res2) == (64, 256):
            return plain if self.width == 64 else f"wide_{plain}_{self.width / 64:g}"
        return f"{plain}w{factor:g}" if (self.res2, self.width) == (256 * factor, 64 * factor) else f"{plain}_custom"

    def parts(self) -> Iterator[tuple[Part, tuple[int, ...]]]:
        """Every required tensor with its shape: convolutions O x I x k x k, batch norms C (without counters)."""
        yield from _conv_bn(1, 0, 1, (self.stem, 3, 7, 7))
        inputs = self.stem
        for index, count in enumerate(self.blocks):
            out, width = self.res2 << index, self.width << index
            for block in range(count):
                if self.bottleneck:
                    yield from _conv_bn(index + 2, block, 1, (width, inputs, 1, 1))
                    yield from _conv_bn(index + 2, block, 2, (width, width // self.groups, 3, 3))
                    yield from _conv_bn(index + 2, block, 3, (out, width, 1, 1))
                else:
                    yield from _conv_bn(index + 2, block, 1, (out, inputs, 3, 3))
                    yield from _conv_bn(index + 2, block, 2, (out, out, 3, 3))
                if inputs != out:
                    yield from _conv_bn(index + 2, block, SHORTCUT, (out, inputs, 1, 1))
                inputs = out

    def config(self) -> dict[str, int]:
        """The MODEL.RESNETS keys that differ from Detectron2's defaults, and the depth."""
        keys = {"MODEL.RESNETS.DEPTH": self.depth}
        defaults = {"STEM_OUT_CHANNELS": (self.stem, 64), "RES2_OUT_CHANNELS": (self.res2, 256)}
        if self.bottleneck:
            defaults |= {"NUM_GROUPS": (self.groups, 1), "WIDTH_PER_GROUP": (self.width // self.groups, 64)}
        return keys | {f"MODEL.RESNETS.{k}": value for k, (value, default) in defaults.items() if value != default}

    def stage_of(self, name: str) -> str:
        """stem or res2 .. res5."""
        return name.split(".")[0]


def _conv_bn(stage: int, block: int, conv: int, shape: tuple[int, ...]) -> Iterator[tuple[Part, tuple[int, ...]]]:
    yield Part(stage, block, conv, ""), shape
    for field in BN_FIELDS:
        yield Part(stage, block, conv, field), (shape[0],)


def infer(shapes: Mapping[Part, tuple[int, ...]]) -> Architecture:
    """The architecture that has exactly the tensors of ``shapes``.

    Raises UserError naming the first tensors that are missing, unexpected or of a wrong shape, and for a depth or width
    that Detectron2 cannot build.
    """
    stem = shapes.get(Part(1, 0, 1, ""))
    if stem is None:
        raise UserError("it has no stem convolution (conv1.weight): this is half a network; convert the whole encoder")
    if len(stem) != 4 or stem[2:] != (7, 7):
        raise UserError(
            f"its stem convolution is {_shape(stem)}, a CIFAR or deep stem; Detectron2's ResNet begins with 7x7 "
            "stride 2. Pretrain with the 7x7 stem"
        )
    if stem[1] != 3:
        raise UserError(f"its stem takes {stem[1]} channels, not RGB images: it cannot be converted")
    blocks = tuple(max((p.block + 1 for p in shapes if p.stage == stage), default=0) for stage in (2, 3, 4, 5))
    bottleneck = any(p.conv == 3 for p in shapes)
    depth = next((d for d, built in BLOCKS.items() if built == (bottleneck, blocks)), None)
    if 0 in blocks:
        raise UserError(f"res{blocks.index(0) + 2} has no tensors: this is half a network; convert the whole encoder")
    if depth is None:
        kind = "bottleneck" if bottleneck else "basic"
        raise UserError(
            f"its blocks per stage are {blocks} ({kind}); Detectron2 builds ResNet-18, 34, 50, 101 and 152 only"
        )
    architecture = _measure(shapes, depth, stem[0], bottleneck)
    _compare(shapes, architecture)
    return architecture


def _measure(shapes: Mapping[Part, tuple[int, ...]], depth: int, stem: int, bottleneck: bool) -> Architecture:
    last, middle = shapes.get(Part(2, 0, 3 if bottleneck else 2, "")), shapes.get(Part(2, 0, 2, ""))
    if last is None or middle is None or len(last) != 4 or len(middle) != 4 or 0 in middle:
        raise UserError("the convolutions of res2's first block are missing or have an unknown shape")
    if not bottleneck:
        if (stem, last[0]) != (64, 64):
            raise UserError(
                f"it is a ResNet-{depth} of width {last[0]}; Detectron2 builds ResNet-18/34 with 64 channels only"
            )
        return Architecture(depth, stem, last[0])
    if middle[0] % middle[1]:
        raise UserError(f"res2's 3x3 convolution is {_shape(middle)}: not a whole number of groups")
    return Architecture(depth, stem, last[0], middle[0], middle[0] // middle[1])


def _compare(shapes: Mapping[Part, tuple[int, ...]], architecture: Architecture) -> None:
    expected = dict(architecture.parts())
    missing = [p for p in expected if p not in shapes]
    extra = [p for p in shapes if p not in expected and not (p.is_counter and p._replace(field="bias") in expected)]
    if missing:
        folded = all(p.field in ("running_mean", "running_var") for p in missing)
        hint = "its BN statistics were folded away or never saved" if folded else "this is half a network"
        raise UserError(
            f"{len(missing)} of {len(expected)} tensors of {architecture.name} are missing: {_some(missing)}; {hint}"
        )
    if extra:
        raise UserError(f"it has {len(extra)} tensors that {architecture.name} does not have: {_some(extra)}")
    wrong = [p for p, shape in expected.items() if shapes[p] != shape]
    if wrong:
        p = wrong[0]
        raise UserError(
            f"{len(wrong)} tensors do not fit {architecture.name}, first {TORCHVISION.format(p)}: {_shape(shapes[p])} "
            f"instead of {_shape(expected[p])}; Detectron2 cannot build this width"
        )


def _some(parts: list[Part]) -> str:
    return listed([TORCHVISION.format(p) for p in parts], 3)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
