"""The E-step of a method that clusters the data set: features of all images, from the key encoder, between steps."""

from __future__ import annotations

from typing import Any

from pretrain.images.source import ImageSource
from pretrain.methods.base import Method
from pretrain.probes.knn import ProbeImages, extract
from pretrain.settings.values import Settings
from pretrain.views import build_views, eval_kind
from runtime.distributed import World
from runtime.logs import get_logger
from runtime.seeds import derive_seed

log = get_logger("pretrain")


def e_step(method: Method, settings: Settings, source: ImageSource, world: World, workers: int, step: int) -> None:
    """Compute the features where the method wants them before ``step``, and let it learn from them.

    The first rank computes all: the BatchNorm statistics, by which features are normalised here, are each rank's own,
    and a checkpoint holds those of the first. Centre crops, as in a probe, with the encoder in evaluation mode.
    """
    method.step = step
    if not method.wants_features():
        return
    features = None
    if world.is_main:
        data, encoder = settings.data, _key_encoder(method)
        views = build_views(eval_kind(data.views), image_size=data.image_size)
        images = ProbeImages(views, world.device, workers=workers, max_bad=data.max_bad)
        encoder.eval()
        try:
            (found,), _ = extract(encoder, source, images)
        finally:
            encoder.train()
        features = found.cpu().numpy()
        log.info("clustering the features of %d images before step %d", len(features), step)
    method.learn_features(features, derive_seed(settings.seed, "clusters", step))


def _key_encoder(method: Method) -> Any:
    return getattr(method, "encoder_k", method.encoder_q)
