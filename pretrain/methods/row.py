"""What a row of ``METHODS`` says about a pretext task. ``--help`` reads it, so nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from runtime.arguments import Bounds
from runtime.findings import Finding

if TYPE_CHECKING:
    from torch import nn

    from pretrain.methods.base import Method


@dataclass(frozen=True)
class ModelSettings:
    """What methods are built from: the encoder, its head, and the numbers that carry official MoCo's names.

    moco_dim: outputs of the head. moco_k: size of the queue, or number of negatives. moco_m: momentum of the key
    encoder. moco_t: softmax temperature. bn_splits: BatchNorm groups on one device.
    """

    arch: str
    stem: str
    mlp: bool
    bn_splits: int
    precision: str
    moco_dim: int
    moco_k: int
    moco_m: float
    moco_t: float
    image_size: int = 224

    @property
    def bf16(self) -> bool:
        """Whether the encoders compute in bfloat16."""
        return self.precision == "bf16"

    def encoder(self, outputs: int) -> nn.Module:
        """A new encoder, B x 3 x H x W -> B x outputs."""
        from pretrain.encoders import build_encoder

        return build_encoder(
            self.arch,
            outputs=outputs,
            mlp=self.mlp,
            stem=self.stem,
            bn_splits=self.bn_splits,
            image_size=self.image_size,
        )


@dataclass(frozen=True)
class Sizes:
    """What the data and the processes decide: images and classes of the data set, images of a step over all ranks,
    steps per epoch, the parts (``--accumulate``) that each rank's share of a step is split into, and the steps of the
    whole run (0: not known)."""

    images: int
    classes: int
    global_batch: int
    steps_per_epoch: int
    parts: int = 1
    total_steps: int = 0


@dataclass(frozen=True)
class SamplingRule:
    """How an epoch's images are drawn by how informative they were when last seen.

    by: "loss" or "uncertainty". An image's score is a running mean with ``momentum``, its weight is score to the power
    1 / ``temperature``. ``floor``: share of an epoch that is drawn uniformly, so that no image starves.
    """

    by: str
    temperature: float = 1.0
    floor: float = 0.2
    momentum: float = 0.5


@dataclass(frozen=True)
class NoOptions:
    """The options of a method that adds none."""


def option(default: Any, text: str, *, bounds: Bounds | None = None, **argument: Any) -> Any:
    """A field of a method's options that is also a command-line flag.

    text: its help. bounds: what its value must lie in. argument: ``type``, ``choices`` or ``metavar`` for argparse; a
    field whose default is False is a switch.
    """
    parsing = {"action": "store_true"} if default is False else argument
    return field(default=default, metadata={"argument": {"help": text, **parsing}, "bounds": bounds})


@dataclass(frozen=True)
class MethodRow:
    """One pretext task.

    recipe: its default recipe, a key of ``RECIPES``. build: (settings, options, sizes) -> the method.
    options: a frozen dataclass of fields made by ``option``: the flags that this method adds. Two methods may share a
    flag; given to any other method, a flag is refused.
    crops: views of each image that ``loss`` expects. views: their kind where ``--views`` names none (a key of
    ``pretrain.views.KINDS``); None for v1, or v2 with ``--aug-plus``.
    labels: whether it needs class labels. check_sizes: raises UserError where (settings, options, sizes) do not fit.
    advise: what of them is allowed and probably a mistake. encodings: how many encodings of an image the backward pass
    needs, which its memory follows. sampling: the rule by which an epoch's images are drawn, None for all alike.
    class_report: "wanted" or "needed" where the method reports with class labels that it does not learn from.
    vits: whether it trains ViTs. rate_of_256: --lr is for 256 images, scaled to the batch, and follows a cosine by step
    after the warm-up, as in MoCo v3.
    """

    recipe: str
    build: Callable[[ModelSettings, Any, Sizes], Method]
    options: type = NoOptions
    crops: int = 2
    views: str | None = None
    labels: bool = False
    check_sizes: Callable[[ModelSettings, Any, Sizes], None] | None = None
    advise: Callable[[ModelSettings, Any, Sizes], list[Finding]] | None = None
    encodings: Callable[[Any], int] = field(default=lambda options: 1)
    sampling: Callable[[Any], SamplingRule | None] = field(default=lambda options: None)
    class_report: Callable[[Any], str | None] = field(default=lambda options: None)
    vits: bool = False
    rate_of_256: bool = False

    def arguments(self) -> dict[str, dict[str, Any]]:
        """{name of an option: its keyword arguments for argparse}."""
        return {item.name: item.metadata["argument"] for item in fields(self.options)}

    def defaults(self) -> dict[str, Any]:
        """{name of an option: its default}."""
        return {item.name: item.default for item in fields(self.options)}

    def check_options(self, options: Any) -> None:
        """Raise UserError where an option is out of its bounds."""
        for item in fields(self.options):
            if item.metadata["bounds"] is not None:
                item.metadata["bounds"].check(item.name, getattr(options, item.name))
