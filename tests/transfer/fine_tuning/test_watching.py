"""Pictures with detections in TensorBoard."""

from __future__ import annotations

import numpy as np

from tests.transfer.toy_data import write_coco
from transfer.data.catalog import get_dataset
from transfer.evaluate.detections import Detections
from transfer.fine_tuning.watching import PICTURES, log_pictures


def test_the_same_few_images_are_drawn_at_each_evaluation(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    spec = get_dataset(write_coco(tmp_path / "data"))
    ids = spec.summary.image_ids
    for iteration, scores in ((10, [0.1, 0.2]), (20, [0.9, 0.8])):
        boxes = np.array([[2, 2, 30, 30], [5, 5, 20, 40]])
        found = Detections(ids, np.zeros(2), np.array([0, 1]), boxes, np.array(scores))
        log_pictures(tmp_path / "run", iteration, spec, found)
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0}).Reload()
    tags = events.Tags()["images"]
    assert len(tags) == PICTURES < len(ids)
    steps = events.Images(f"detections/{spec.name}/{ids[0]}")
    assert [event.step for event in steps] == [10, 20]
    assert steps[0].encoded_image_string != steps[1].encoded_image_string  # boxes are drawn in the second only
    empty = events.Images(f"detections/{spec.name}/{ids[1]}")
    assert empty[0].encoded_image_string == empty[1].encoded_image_string
