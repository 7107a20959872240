"""The four settings that belong to a backbone's weights: pixel order, mean, std, and the place of the stride."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Preprocessing:
    """How images were normalised, in Detectron2's terms: channels in the order of ``format``, pixel values 0..255."""

    format: str
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    stride_in_1x1: bool = False

    def config(self, *, resnet: bool = True) -> dict[str, Any]:
        """The Detectron2 keys: four, of which the last is for ResNets only."""
        keys = {
            "INPUT.FORMAT": self.format,
            "MODEL.PIXEL_MEAN": list(self.pixel_mean),
            "MODEL.PIXEL_STD": list(self.pixel_std),
        }
        return {**keys, "MODEL.RESNETS.STRIDE_IN_1X1": self.stride_in_1x1} if resnet else keys


IMAGENET = Preprocessing("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
IMAGENET_BGR = Preprocessing("BGR", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395))
# the Caffe2 models of Detectron2's zoo: mean of [R, G, B] subtracted in BGR order, no std, stride in the first 1x1
MSRA_BGR = Preprocessing("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), stride_in_1x1=True)
UNIT = Preprocessing("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0))  # [0, 1], as SimCLR feeds it
HALF = Preprocessing("RGB", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5))  # mean and std 0.5, some timm weights
SATELLITE = Preprocessing("RGB", (109.65, 104.805, 75.48), (54.315, 39.78, 36.465))  # DINOv3's weights of SAT-493M

PREPROCESSING = {
    "imagenet": IMAGENET,
    "imagenet-bgr": IMAGENET_BGR,
    "msra": MSRA_BGR,
    "unit": UNIT,
    "half": HALF,
    "satellite": SATELLITE,
}


def from_config(config: dict[str, Any]) -> Preprocessing:
    """The settings in a flat config (a sidecar's, for example); missing ones are those of ImageNet training."""
    return replace(
        IMAGENET,
        format=config.get("INPUT.FORMAT", IMAGENET.format),
        pixel_mean=tuple(config.get("MODEL.PIXEL_MEAN", IMAGENET.pixel_mean)),
        pixel_std=tuple(config.get("MODEL.PIXEL_STD", IMAGENET.pixel_std)),
        stride_in_1x1=bool(config.get("MODEL.RESNETS.STRIDE_IN_1X1", False)),
    )
