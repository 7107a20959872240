"""Example images: which objects count as found, and labels that do not cover each other."""

from __future__ import annotations

import numpy as np

from transfer.comparison.example_images import LabelledBoxes
from transfer.evaluate.drawing import label_places
from transfer.report.example_images import found_objects

TRUTH = LabelledBoxes(np.array([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]), ["cat", "cat", "sea cow"])


def detected(*detections: tuple[str, float]) -> LabelledBoxes:
    """Detections "CLASS SCORE" whose boxes of 10 x 10 pixels begin at the given x, best first."""
    boxes = [[x, 0.0, x + 10, 10] for _, x in detections]
    return LabelledBoxes(np.array(boxes, dtype=float).reshape(-1, 4), [label for label, _ in detections])


def test_an_object_is_found_once() -> None:
    assert found_objects(TRUTH, detected(("cat 0.90", 0), ("cat 0.80", 1))) == 1
    assert found_objects(TRUTH, detected(("cat 0.90", 0), ("cat 0.80", 20), ("sea cow 0.50", 41))) == 3


def test_the_class_and_half_of_the_union_must_agree() -> None:
    assert found_objects(TRUTH, detected(("cow 0.90", 40), ("cat 0.90", 40))) == 0
    assert found_objects(TRUTH, detected(("cat 0.90", 3))) == 1  # IoU 7 / 13
    assert found_objects(TRUTH, detected(("cat 0.90", 4))) == 0  # IoU 6 / 14
    assert found_objects(TRUTH, detected()) == 0


def test_labels_stay_inside_and_do_not_cover_each_other() -> None:
    sizes = [(60.0, 10.0)] * 4
    boxes = [[5.0, 5, 50, 50], [6.0, 6, 40, 40], [90.0, 95, 99, 99], [5.0, 5, 20, 20]]
    places = label_places(boxes, sizes, (100, 100))
    assert places[0] == (7.0, 7.0)
    for i, (x, y) in enumerate(places):
        assert 0 <= x <= 100 - 60
        assert 0 <= y <= 100 - 10
        assert all(abs(y - other) >= 10 or abs(x - left) >= 60 for left, other in places[:i])
    assert label_places([[0.0, 0, 9, 9]] * 3, [(9.0, 8.0)] * 3, (10, 10))[2] == (1.0, 2.0)  # full: over the others
