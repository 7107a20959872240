"""What can be watched while a detector is trained: detections on a few test images in TensorBoard, all of it in W&B."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from runtime.weights_and_biases import start_session
from transfer.data.catalog import DatasetSpec
from transfer.data.mapper import read_image
from transfer.evaluate.detections import Detections
from transfer.evaluate.drawing import draw, marked_detections

PICTURES = 4  # of each test set and evaluation, always the same images
SCORE = 0.3  # detections below are not drawn


@contextlib.contextmanager
def shown_in_wandb(folder: Path, header: Mapping[str, Any]) -> Iterator[Any]:
    """A session that copies what is written for TensorBoard: losses, evaluations and pictures, of either engine.

    ``header``: the beginning of result.json, of which the session records the run's settings.
    """
    name = f"{header['config']['name']}/{header['init']['name']}/seed{header['seed']}"
    config = {"init": header["init"], "seed": header["seed"], **header["config"]["flat"]}
    session = start_session(folder, config=config, name=name, sync_tensorboard=True)
    try:
        yield session
    finally:
        session.finish()


def log_pictures(folder: Path, iteration: int, spec: DatasetSpec, detections: Detections) -> None:
    """Write detections on the first images of a test set to TensorBoard, as ``detections/SET/IMAGE``; no proposals."""
    from torch.utils.tensorboard import SummaryWriter

    if detections.are_proposals:
        return  # a thousand boxes an image hide it
    files = {record["image_id"]: record["file_name"] for record in spec.records()}
    with SummaryWriter(str(folder), filename_suffix=".pictures") as board:
        for index, image_id in enumerate(detections.image_ids[:PICTURES]):
            marked = marked_detections(detections, index, SCORE, spec.class_names)
            image = Image.fromarray(read_image(files[image_id], "RGB"))
            picture = draw(image, marked, f"{len(marked.labels)} detections above {SCORE:g}")
            board.add_image(f"detections/{spec.name}/{image_id}", np.asarray(picture), iteration, dataformats="HWC")
