"""How much memory a run will need, estimated before its first step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from pretrain.methods.base import Method
from pretrain.methods.row import ModelSettings, Sizes
from pretrain.settings.values import Settings
from runtime.autograd_memory import kept_bytes
from runtime.distributed import World
from runtime.free_memory import free_memory

# Peak of the process over what autograd keeps, measured on the CPU (docs/pretrain.md): beside
# the kept activations a step holds gradients of the largest maps, and the maps of the key encoder while it runs.
PEAK = 1.6
PROGRAM = 1.0 * 2**30  # bytes: Python, torch and its libraries
PREFETCH = 2  # batches that each loader process keeps ready, and 3 more


@dataclass(frozen=True)
class Estimate:
    """Bytes. needed: peak of one process of the run. free: what it can have, None where that is not known.
    per_image: of ``needed``, what grows with the number of images of a process and part."""

    needed: int
    free: int | None
    per_image: int
    images: int

    @property
    def fits(self) -> bool:
        """Whether the memory suffices, as far as it is known."""
        return self.free is None or self.needed <= self.free

    def line(self) -> str:
        """One line for the log; says what to lower where the memory does not suffice."""
        text = f"memory: about {_gib(self.needed)} for each process"
        if self.free is None:
            return text
        text += f", {_gib(self.free)} are free"
        if self.fits:
            return text
        room = (self.free - (self.needed - self.per_image * self.images)) // max(1, self.per_image)
        if room < 1:
            return f"{text}: not enough; choose a smaller --arch or --image-size"
        parts = next((n for n in range(2, self.images + 1) if self.images % n == 0 and self.images // n <= room), 0)
        split = f", or split the batch with --accumulate {parts}" if parts else ""
        return f"{text}: not enough; lower --batch-size by a factor of {self.images / room:.1f}{split}"


def estimate(settings: Settings, sizes: Sizes, world: World, method: Method, workers: int) -> Estimate:
    """The estimate of a run whose method has been built."""
    images = sizes.global_batch // world.size // sizes.parts
    row, model = settings.row, settings.model
    activations = activation_bytes(model, settings.data.image_size) * row.encodings(settings.options)
    scores = 3 * 4 * model.moco_k  # similarities to the dictionary, their exponentials and their gradient
    per_image = int(PEAK * activations * (0.5 if model.bf16 else 1.0)) + scores
    state = sum(t.numel() * t.element_size() for t in (*method.parameters(), *method.buffers()))
    trained = sum(p.numel() * 4 for p in method.trained_parameters())
    fixed = state + 2 * trained  # gradients and momentum
    loaded = 3 * settings.data.image_size**2 * row.crops * (sizes.global_batch // world.size)
    if world.device.type == "cuda":
        return Estimate(fixed + per_image * images, torch.cuda.mem_get_info(world.device)[0] + state, per_image, images)
    fixed += int(PROGRAM) + loaded * (workers * PREFETCH + 3)
    free = free_memory()
    return Estimate(fixed + per_image * images, free, per_image, images)


def activation_bytes(model: ModelSettings, image_size: int) -> int:
    """Bytes in float32 that autograd keeps of one image in the encoder; nothing is computed or allocated."""
    with torch.device("meta"):
        encoder = replace(model, bn_splits=1).encoder(model.moco_dim)
        images = [torch.empty(count, 3, image_size, image_size) for count in (2, 4)]
        two, four = (kept_bytes(partial(encoder, batch)) for batch in images)
    return (four - two) // 2  # the difference is without the weights, which are kept as well


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
