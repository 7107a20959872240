"""``train_net.py --check-data``: everything that is known about the data sets of a config, without training."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tqdm import tqdm

from runtime.errors import UserError
from runtime.listing import counted, listed
from transfer.data.catalog import DatasetSpec
from transfer.data.labels import EXAMPLES
from transfer.data.mapper import read_image
from transfer.data.set_findings import named_findings
from transfer.fine_tuning.checks import Datasets, check_classes, check_keypoints, check_labels

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


def check_data(cfg: CfgNode, explicit: Mapping[str, str]) -> Iterator[str]:
    """Lines on the training and test sets: their size, then their findings. Then every image is decoded.

    Raises UserError where a run could not use a set, as the run itself would. ``explicit``: see ``check_classes``.
    """
    datasets = Datasets.of(cfg, train=True)
    for dataset in datasets.all():
        dataset.require()
    if cfg.MODEL.KEYPOINT_ON:
        check_keypoints(cfg, datasets)
    check_labels(cfg, datasets)
    check_classes(cfg, datasets, explicit)
    for dataset in datasets.all():
        yield _size(dataset)
    findings = [f"data set {name}: {finding.line()}" for name, finding in named_findings(datasets.train, datasets.test)]
    yield from findings or ["no findings"]
    for dataset in datasets.all():
        check_images(dataset)


def check_images(dataset: DatasetSpec) -> None:
    """Raise UserError naming the images that cannot be decoded whole."""
    names = [record["file_name"] for record in dataset.records()]
    # Pillow decodes without the interpreter's lock, so threads are enough
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        errors = list(tqdm(pool.map(_problem, names), dataset.name, len(names), disable=None))
    if broken := [error for error in errors if error]:
        raise UserError(f"data set {dataset.name}: {len(broken)} of {len(names)} images: {listed(broken, EXAMPLES)}")


def _problem(name: str) -> str | None:
    try:
        read_image(name, "RGB")
    except UserError as error:
        return str(error)
    return None


def _size(dataset: DatasetSpec) -> str:
    summary = dataset.summary
    return (
        f"data set {dataset.name}: {len(summary.image_ids)} images, {summary.annotations} annotations, "
        f"{counted(len(summary.class_names), 'class', 'classes')}"
    )
