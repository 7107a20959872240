"""``train_net.py --dry-run``, and its estimate of the memory."""

import json
import re

import pytest

from tests.transfer.toy_data import write_coco
from tests.transfer.train_command import arguments
from transfer.config import load_config
from transfer.engines.torchvision import memory
from transfer.engines.torchvision.memory import estimate_memory


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("toy"), count=4)


def config(data, **opts):
    pairs = arguments(data, "unused", **opts)
    return load_config("demo_R18_FPN.yaml", pairs[pairs.index("MODEL.FPN.OUT_CHANNELS") :])


def test_it_says_what_a_run_would_be_and_writes_nothing(data, tmp_path, run_cli):
    done = run_cli(arguments(data, tmp_path / "r", "--dry-run"), check=0)
    assert "initialisation: random (random)" in done.stdout
    assert "iterations: 2 of 2 images, 1.0 epochs" in done.stdout
    assert re.search(
        r"memory: about \d\.\d GiB for each process \(2 images of up to \d+ x \d+ at a time\)", done.stdout
    )
    found = re.search(
        r"^time: about ([\d.e-]+) s an iteration and ([\d.e-]+) s a test image here, 1 min in all with 1 evaluation$",
        done.stdout,
        re.M,
    )
    assert found
    assert all(float(seconds) > 0 for seconds in found.groups())
    assert not (tmp_path / "r").exists()
    refused = run_cli(arguments(data, tmp_path / "r", "--dry-run", SOLVER__IMS_PER_BATCH="0"), check=2)
    assert "IMS_PER_BATCH" in refused.stderr


def test_the_estimate_grows_by_the_image_and_says_what_to_lower(data, monkeypatch):
    two, four = (estimate_memory(config(data, SOLVER__IMS_PER_BATCH=count)) for count in ("2", "4"))
    assert four.images == 2 * two.images
    assert four.needed > two.needed
    parts = estimate_memory(config(data, SOLVER__IMS_PER_BATCH="4", ENGINE__ACCUMULATE="2"))
    assert parts.needed == pytest.approx(two.needed, rel=1e-3)
    monkeypatch.setattr(memory, "free_memory", lambda: 1 << 20)
    assert "not enough; raise ENGINE.ACCUMULATE" in estimate_memory(config(data)).line()
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    assert "free" not in estimate_memory(config(data)).line()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo_R18_C4.yaml", "demo_R18_FPN.yaml"])
@pytest.mark.parametrize("batch", [4, 16])
def test_the_estimate_is_within_half_of_the_measured_peak(data, tmp_path, run_cli, name, batch):
    opts = ["MODEL.ROI_HEADS.NUM_CLASSES", "3", "DATASETS.TRAIN", f"('{data}',)", "DATASETS.TEST", f"('{data}',)",
            "SOLVER.IMS_PER_BATCH", str(batch), "SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "()", "TEST.EVAL_PERIOD", "0",
            "TEST.PRECISE_BN.ENABLED", "False"]  # fmt: skip
    argv = ["transfer/train_net.py", "--config-file", name, "--init", "random", "--engine", "torchvision"]
    run_cli([*argv, *opts, "OUTPUT_DIR", str(tmp_path / "r")], check=0)
    measured = json.loads((tmp_path / "r" / "result.json").read_text())["peak_memory_mb"] * 2**20
    assert 1 / 1.5 < estimate_memory(load_config(name, opts)).needed / measured < 1.5
