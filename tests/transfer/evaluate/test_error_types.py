"""Error types equal the authors' release (TIDE, tidecv 1.0.1) on stored cases; simple cases by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from transfer.evaluate.detections import Detections
from transfer.evaluate.error_types import TYPES, error_types

CASES = json.loads((Path(__file__).parent / "tide_cases.json").read_text())["cases"]
SHORT = dict(zip(TYPES, ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")))


@pytest.mark.parametrize("case", range(len(CASES)))
def test_equal_to_the_release(case: int) -> None:
    stored = CASES[case]
    ids = [record["image_id"] for record in stored["records"]]
    detections = Detections(ids, stored["image_index"], stored["category"], np.array(stored["boxes"]), stored["scores"])
    found = error_types(stored["records"], detections)
    # the release rounds its recall grid otherwise (x / 100), worth less than 0.4 AP50 on these tiny sets
    assert found.ap50 == pytest.approx(stored["expected"]["AP"], abs=0.4)
    for name in TYPES:
        assert found.weight[name] == pytest.approx(stored["expected"][SHORT[name]], abs=0.8)


def test_grid_is_the_only_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transfer.evaluate.match_tables.RECALLS", np.arange(101) / 100)
    for stored in CASES:
        ids = [record["image_id"] for record in stored["records"]]
        boxes = np.array(stored["boxes"])
        found = error_types(
            stored["records"], Detections(ids, stored["image_index"], stored["category"], boxes, stored["scores"])
        )
        expected = [stored["expected"][SHORT[name]] for name in TYPES]
        assert [found.weight[name] for name in TYPES] == pytest.approx(expected, abs=1e-6)


def judge(*detected: tuple[int, list[float], float], crowd: bool = False) -> dict[str, int]:
    truth = [
        {"bbox": [0.0, 0.0, 10.0, 10.0], "bbox_mode": 0, "category_id": 0, "iscrowd": int(crowd)},
        {"bbox": [50.0, 50.0, 60.0, 60.0], "bbox_mode": 0, "category_id": 1},
    ]
    category, boxes, scores = zip(*detected)
    detections = Detections([7], np.zeros(len(boxes)), np.array(category), np.array(boxes), np.array(scores))
    return {k: v for k, v in error_types([{"image_id": 7, "annotations": truth}], detections).count.items() if v}


def test_each_type_by_hand() -> None:
    exact = [0.0, 0.0, 10.0, 10.0]
    assert judge((0, exact, 0.9)) == {"missed": 1}
    assert judge((0, exact, 0.9), (0, exact, 0.8)) == {"duplicate": 1, "missed": 1}
    assert judge((1, exact, 0.9)) == {"classification": 1, "missed": 1}
    assert judge((0, [0.0, 0.0, 10.0, 4.0], 0.9)) == {"localisation": 1, "missed": 1}
    assert judge((1, [0.0, 0.0, 10.0, 4.0], 0.9)) == {"both": 1, "missed": 2}
    assert judge((0, [80.0, 80.0, 90.0, 90.0], 0.9)) == {"background": 1, "missed": 2}
    assert judge((0, exact, 0.9), crowd=True) == {"missed": 1}
