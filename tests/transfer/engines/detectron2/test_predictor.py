"""A trained run in somebody else's script: Detectron2's DefaultPredictor, this project's heads by one import."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.transfer.engines.engine_cases import EXTRA_NORM_C4
from transfer.config import dump_config
from transfer.data.catalog import get_dataset

pytestmark = pytest.mark.detectron2

SCRIPT = """
import sys
import numpy as np
from detectron2.config import get_cfg
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
{heads}
run, *images = sys.argv[1:]
cfg = get_cfg()
cfg.merge_from_file(run + "/config.yaml")
cfg.MODEL.WEIGHTS = run + "/model_final.pth"
predictor = DefaultPredictor(cfg)
for k, image in enumerate(images):
    found = predictor(read_image(image, format="BGR"))["instances"]
    np.savez(run + f"/{{k}}.npz", boxes=found.pred_boxes.tensor, scores=found.scores, classes=found.pred_classes)
"""
DILATED = {
    "MODEL.BACKBONE.NAME": "build_resnet_dilated_c5_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res5"],
    "MODEL.RESNETS.RES5_DILATION": 2,
    "MODEL.FPN.NORM": "",
    "MODEL.RPN.IN_FEATURES": ["res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 32, 64]],
    "MODEL.ROI_HEADS.IN_FEATURES": ["res5"],
}


def predict(folder: Path, images: list[str], repo: Path, heads: str) -> subprocess.CompletedProcess[str]:
    """Run the script in ``folder``, where nothing of this project is but on the path."""
    (folder / "predict.py").write_text(SCRIPT.format(heads=heads))
    variables = {**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "predict.py", str(folder), *images]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads as the script has: sums over threads round in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("settings", [EXTRA_NORM_C4, DILATED], ids=["extra-norm", "dilated-c5"])
def test_a_script_of_ones_own_detects_what_the_engine_detects(
    settings: dict[str, Any], tmp_path: Path, tiny_config: Callable[..., Any], engine: Any, tiny_coco: str, repo: Path
) -> None:
    cfg = tiny_config(settings, {"SOLVER.MAX_ITER": 1, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0})
    engine.train(cfg, tmp_path)
    (tmp_path / "config.yaml").write_text(dump_config(cfg))
    files = [record["file_name"] for record in get_dataset(tiny_coco).records()[:2]]
    done = predict(tmp_path, files, repo, "import transfer.engines.detectron2.heads")
    assert done.returncode == 0, done.stderr[-2000:]
    expected = engine.detect(cfg, tmp_path / "model_final.pth", tiny_coco)
    for k in range(len(files)):
        rows = expected.image_index == k
        with np.load(tmp_path / f"{k}.npz") as found:
            assert len(found["scores"]) > 5
            assert np.array_equal(found["boxes"], expected.boxes[rows])
            assert np.array_equal(found["scores"], expected.scores[rows])
            assert np.array_equal(found["classes"], expected.category[rows])


def test_without_the_import_detectron2_does_not_know_the_head(
    tmp_path: Path, tiny_config: Callable[..., Any], repo: Path
) -> None:
    (tmp_path / "config.yaml").write_text(dump_config(tiny_config(EXTRA_NORM_C4)))
    done = predict(tmp_path, [], repo, "")
    assert done.returncode == 1
    assert "Res5ROIHeadsExtraNorm" in done.stderr.splitlines()[-1]
