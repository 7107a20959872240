"""What can be watched while a detector is trained: detections on a few test images, in TensorBoard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from transfer.data.catalog import DatasetSpec
from transfer.data.mapper import read_image
from transfer.evaluate.detections import Detections
from transfer.evaluate.drawing import draw, marked_detections

PICTURES = 4  # of each test set and evaluation, always the same images
SCORE = 0.3  # detections below are not drawn


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
