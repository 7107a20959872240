"""Training with the embedded engine: metrics, checkpoints, exact resume, stops and failures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import UserError
from runtime.metrics import read_metrics
from runtime.torch_files import load_torch, save_torch
from transfer.engines.torchvision import loop
from transfer.engines.training.failures import NonFiniteLoss
from transfer.engines.training.precision import Precision

LONG = {
    "SOLVER.MAX_ITER": 7,
    "SOLVER.CHECKPOINT_PERIOD": 3,
    "SOLVER.STEPS": (5,),
    "TEST.EVAL_PERIOD": 2,
    "TEST.PRECISE_BN.ENABLED": True,
    "TEST.PRECISE_BN.NUM_ITER": 1,
    "MODEL.MASK_ON": True,
}


class StopAt:
    """A stop signal that comes while the n-th iteration runs."""

    def __init__(self, iterations: int) -> None:
        self.left = iterations

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left <= 0


def assert_same_weights(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert list(a) == list(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., Any], engine: Any) -> tuple[Path, Any]:
    """An unbroken run of LONG."""
    cfg, folder = tiny_config(LONG), tmp_path_factory.mktemp("whole")
    engine.train(cfg, folder, after_eval=lambda iteration, found: {"bbox/AP": 12.5})
    return folder, cfg


def test_run_folder_follows_detectron2(whole: tuple[Path, Any]) -> None:
    folder, _ = whole
    assert {p.name for p in folder.glob("*.pth")} == {"model_0000002.pth", "model_0000005.pth", "model_final.pth"}
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    content = load_torch(folder / "model_0000002.pth")
    assert content["iteration"] == content["trainer"]["iteration"] == 2
    assert set(content["trainer"]["_trainer"]) == {"iteration", "optimizer"}
    assert content["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 3
    assert next(iter(content["model"])).startswith("backbone.fpn_lateral2")


def test_metrics_have_detectron2s_names(whole: tuple[Path, Any]) -> None:
    records = read_metrics(whole[0] / "metrics.json")
    last = records[-1]
    assert last["iteration"] == 6
    losses = {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
    assert set(last) == {"iteration", "total_loss", "lr", "time", "data_time", *losses}
    assert last["total_loss"] == pytest.approx(sum(last[name] for name in losses), rel=0.2)  # medians do not add up
    assert last["lr"] == pytest.approx(0.001)
    assert [r["iteration"] for r in records if "bbox/AP" in r] == [1, 3, 5]


def timeless(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.json as they stand there, without the times."""
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in ("time", "data_time")} for line in lines]


@pytest.mark.parametrize("stop_after", [1, 4, 5])
def test_resumed_run_ends_with_the_same_weights_and_metrics(
    stop_after: int, whole: tuple[Path, Any], tmp_path: Path, engine: Any, weights_of: Callable[[Path], Any]
) -> None:
    folder, cfg = whole
    first = engine.train(cfg, tmp_path, stop=StopAt(stop_after), after_eval=lambda i, d: {"bbox/AP": 12.5})
    assert (first.iterations, first.stopped) == (stop_after, True)
    assert not (tmp_path / "model_final.pth").exists()
    torch.manual_seed(999)  # another process has other generators
    np.random.seed(999)
    second = engine.train(cfg, tmp_path, resume=True, after_eval=lambda i, d: {"bbox/AP": 12.5})
    assert (second.iterations, second.stopped) == (7, False)
    assert_same_weights(weights_of(tmp_path), weights_of(folder))
    assert timeless(tmp_path) == timeless(folder)  # the medians of the last record reach back before the stop


@pytest.mark.parametrize("torn", [False, True])
def test_an_evaluation_that_a_kill_kept_out_of_metrics_json_is_made_again(
    torn: bool, whole: tuple[Path, Any], tmp_path: Path, engine: Any
) -> None:
    """The history is written before metrics.json, so a kill in between leaves an evaluation in the one alone."""
    folder, cfg = whole
    engine.train(cfg, tmp_path, stop=StopAt(4), after_eval=lambda i, d: {"bbox/AP": 12.5})
    made: list[int] = []

    def evaluate(iteration: int, found: Any) -> dict[str, float]:
        made.append(iteration)
        return {"bbox/AP": 12.5}

    if torn:
        with (tmp_path / "metrics.json").open("a") as file:
            file.write('{"iteration": 3, "bbox/A')
    engine.train(cfg, tmp_path, resume=True, after_eval=evaluate, evaluated=[2, 4])
    assert made == [4, 6]
    assert timeless(tmp_path) == timeless(folder)


def test_torn_newest_checkpoint_falls_back(
    whole: tuple[Path, Any], tmp_path: Path, engine: Any, weights_of: Callable[[Path], Any]
) -> None:
    folder, cfg = whole
    for name in ("model_0000002.pth", "model_0000005.pth"):
        shutil.copy(folder / name, tmp_path / name)
    torn = tmp_path / "model_0000005.pth"
    torn.write_bytes(torn.read_bytes()[:3000])
    (tmp_path / "last_checkpoint").write_text(torn.name)
    engine.train(cfg, tmp_path, resume=True, after_eval=lambda i, d: {})
    assert_same_weights(weights_of(tmp_path), weights_of(folder))


def test_only_torn_checkpoints_are_an_error(whole: tuple[Path, Any], tmp_path: Path, engine: Any) -> None:
    (tmp_path / "model_0000002.pth").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(UserError, match="none of its 1 checkpoints can be read"):
        engine.train(whole[1], tmp_path, resume=True)


def test_checkpoint_of_another_model_is_refused(
    whole: tuple[Path, Any], tmp_path: Path, engine: Any, tiny_config: Callable[..., Any]
) -> None:
    shutil.copy(whole[0] / "model_0000002.pth", tmp_path)
    with pytest.raises(UserError, match="was written by a different config"):
        engine.train(tiny_config(LONG, {"MODEL.FPN.OUT_CHANNELS": 16}), tmp_path, resume=True)


def test_non_finite_loss_names_iteration_and_images_and_updates_nothing(
    tmp_path: Path, engine: Any, tiny_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny_config({"SOLVER.MAX_ITER": 4, "SOLVER.CHECKPOINT_PERIOD": 2})
    seen: list[float] = []
    original = loop.Training._forward_backward

    def poisoned(self: Any, batch: Any) -> dict[str, float]:
        losses = original(self, batch)
        seen.append(float(sum(p.detach().double().sum() for p in self.model.parameters())))
        return {**losses, "loss_cls": float("nan")} if len(seen) == 3 else losses

    monkeypatch.setattr(loop.Training, "_forward_backward", poisoned)
    with pytest.raises(NonFiniteLoss, match=r"not finite at iteration 2 on images \d, \d.*nothing was updated"):
        engine.train(cfg, tmp_path)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    saved = load_torch(tmp_path / "model_0000001.pth")["model"]
    assert seen[2] == pytest.approx(
        sum(float(v.double().sum()) for k, v in saved.items() if "running" not in k and "num_batches" not in k)
    )


def test_diverged_proposals_are_one_line_for_the_user(
    tmp_path: Path, engine: Any, tiny_config: Callable[..., Any]
) -> None:
    with pytest.raises(UserError, match=r"not finite at iteration \d on images \d"):
        engine.train(tiny_config({"SOLVER.BASE_LR": 1e12, "SOLVER.MAX_ITER": 8, "SOLVER.WARMUP_ITERS": 0}), tmp_path)


def test_batch_norm_of_one_value_is_one_line_for_the_user(
    tmp_path: Path, engine: Any, tiny_config: Callable[..., Any]
) -> None:
    tiny = {"SOLVER.IMS_PER_BATCH": 1, "INPUT.MIN_SIZE_TRAIN": (20,), "INPUT.MAX_SIZE_TRAIN": 30}
    with pytest.raises(UserError, match=r"one value per channel at iteration 0, images \d+ .*SOLVER.IMS_PER_BATCH"):
        engine.train(tiny_config(tiny, {"SOLVER.MAX_ITER": 1}), tmp_path)


def test_gradient_accumulation_equals_the_whole_batch(
    tmp_path: Path, engine: Any, tiny_config: Callable[..., Any], weights_of: Callable[[Path], Any]
) -> None:
    # frozen statistics, every anchor sampled, equal image sizes: then the loss is a mean over images
    fixed = {
        "SOLVER.MAX_ITER": 1,
        "SOLVER.IMS_PER_BATCH": 4,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 100000,
        "MODEL.RPN.POSITIVE_FRACTION": 1.0,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 4,
        "INPUT.MIN_SIZE_TRAIN": (64,),
    }
    records, updated = {}, {}
    for parts in (1, 2, 4):
        engine.train(tiny_config(fixed, {"ENGINE.ACCUMULATE": parts}), tmp_path / str(parts))
        records[parts] = read_metrics(tmp_path / str(parts) / "metrics.json")[-1]
        updated[parts] = weights_of(tmp_path / str(parts))["proposal_generator.rpn_head.objectness_logits.weight"]
    for parts in (2, 4):
        for name in ("loss_rpn_cls", "loss_rpn_loc"):
            assert records[parts][name] == pytest.approx(records[1][name], rel=1e-5)
        torch.testing.assert_close(updated[parts], updated[1], rtol=1e-4, atol=1e-6)


def test_bfloat16_autocast_trains_on_cpu(tmp_path: Path, engine: Any, tiny_config: Callable[..., Any]) -> None:
    amp = {"SOLVER.AMP.ENABLED": True, "ENGINE.AMP_DTYPE": "bfloat16", "SOLVER.MAX_ITER": 2, "MODEL.MASK_ON": True}
    summary = engine.train(tiny_config(amp), tmp_path)
    assert summary.iterations == 2
    state = load_torch(tmp_path / "model_final.pth")["model"]
    assert all(v.dtype == torch.float32 for v in state.values() if v.is_floating_point())


def test_float16_on_cpu_is_refused(tmp_path: Path, engine: Any, tiny_config: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="ENGINE.AMP_DTYPE bfloat16"):
        engine.train(tiny_config({"SOLVER.AMP.ENABLED": True, "SOLVER.MAX_ITER": 1}), tmp_path)


def test_the_backbone_is_compiled_when_asked(
    tmp_path: Path, engine: Any, tiny_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    for asked in (False, True):
        engine.train(tiny_config({"ENGINE.COMPILE": asked, "SOLVER.MAX_ITER": 1}), tmp_path / str(asked))
        assert [type(module).__name__ for module in compiled] == ["FPN"] * asked


def test_scaled_losses_update_as_plain_ones_and_an_overflow_updates_nothing() -> None:
    precision = Precision(False, "", torch.device("cpu"))
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # float16 itself needs a GPU
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    for loss, expected in (((weight**2).sum(), [0.0, 0.0]), (weight.sum() * float("inf"), [0.0, 0.0])):
        optimizer.zero_grad()
        precision.backward(loss)
        precision.unscale(optimizer)
        if loss.isfinite():
            assert weight.grad is not None
            assert weight.grad.tolist() == [2.0, -4.0]  # what clipping sees
        precision.step(optimizer)
        assert weight.tolist() == expected
    assert precision.scaler.get_scale() == 512.0
    other = Precision(False, "", torch.device("cpu"))
    other.scaler = torch.amp.GradScaler("cpu")
    other.load_state_dict(precision.state_dict())
    assert other.scaler.get_scale() == 512.0


def test_channels_last_gives_the_same_losses(tmp_path: Path, engine: Any, tiny_config: Callable[..., Any]) -> None:
    totals = []
    for flag in (False, True):
        folder = tmp_path / str(flag)
        engine.train(tiny_config({"ENGINE.CHANNELS_LAST": flag, "SOLVER.MAX_ITER": 1}), folder)
        totals.append(read_metrics(folder / "metrics.json")[-1]["total_loss"])
    assert totals[1] == pytest.approx(totals[0], rel=1e-4)


def test_detections_of_a_checkpoint(whole: tuple[Path, Any], engine: Any, tiny_coco: str) -> None:
    folder, cfg = whole
    found = engine.detect(cfg, folder / "model_final.pth", tiny_coco)
    assert found.image_ids == list(range(1, 9))
    assert found.masks is not None
    assert len(found.masks) == len(found) > 0
    sizes = {tuple(m["size"]) for m in found.masks}
    assert sizes <= {(60, 80), (90, 66)}
    assert (found.boxes[:, 2] <= 80).all()
    assert np.isin(found.category, [0, 1, 2]).all()


def test_augmented_detection_with_one_plain_view_is_plain_detection(
    whole: tuple[Path, Any], engine: Any, tiny_coco: str
) -> None:
    folder, cfg = whole
    aug = cfg.clone()
    aug.merge_from_list(["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (64,), "TEST.AUG.MAX_SIZE", 96])
    plain = engine.detect(cfg, folder / "model_final.pth", tiny_coco)
    mirrored = engine.detect(aug, folder / "model_final.pth", tiny_coco)
    aug.TEST.AUG.FLIP = False
    single = engine.detect(aug, folder / "model_final.pth", tiny_coco)
    assert np.array_equal(single.scores, plain.scores)
    np.testing.assert_allclose(single.boxes, plain.boxes, atol=1e-3)
    assert len(single.masks) == len(plain.masks)
    assert not np.array_equal(mirrored.scores, plain.scores)


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_weights(
    tmp_path: Path, tiny_config: Callable[..., Any], weights_of: Callable[[Path], Any], repo: Path
) -> None:
    from transfer.config import dump_config

    (tmp_path / "c.yaml").write_text(
        dump_config(tiny_config(LONG, {"SOLVER.MAX_ITER": 30, "SOLVER.STEPS": (), "DATALOADER.NUM_WORKERS": 1}))
    )
    base = [sys.executable, "transfer/train_net.py", "--config-file", str(tmp_path / "c.yaml"), "--init", "random"]
    base += ["--engine", "torchvision"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*base, "OUTPUT_DIR", str(tmp_path / "whole")], cwd=repo, env=environment, check=True)
    rng = np.random.RandomState(4)
    for attempt in range(3):
        resume = ["--resume"] if attempt else []
        process = subprocess.Popen([*base, *resume, "OUTPUT_DIR", str(tmp_path / "parts")], cwd=repo, env=environment)
        wanted = 2 + 9 * attempt + int(rng.randint(6))  # some checkpoint after this iteration
        while process.poll() is None and not any(
            int(p.stem[6:]) >= wanted for p in (tmp_path / "parts").glob("model_0*.pth")
        ):
            time.sleep(0.05)
        time.sleep(float(rng.uniform(0, 0.5)))
        process.kill()
        process.wait()
    subprocess.run([*base, "--resume", "OUTPUT_DIR", str(tmp_path / "parts")], cwd=repo, env=environment, check=True)
    assert_same_weights(weights_of(tmp_path / "parts"), weights_of(tmp_path / "whole"))


def test_seed_decides_the_first_loss(tmp_path: Path, engine: Any, tiny_config: Callable[..., Any]) -> None:
    totals = []
    for run, seed in enumerate((1, 1, 2)):
        engine.train(tiny_config({"SEED": seed, "SOLVER.MAX_ITER": 1}), tmp_path / str(run))
        totals.append(read_metrics(tmp_path / str(run) / "metrics.json")[-1]["total_loss"])
    assert totals[0] == totals[1] != totals[2]


def test_wrong_number_of_classes_is_refused(tmp_path: Path, engine: Any, tiny_config: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="has 3 classes, MODEL.ROI_HEADS.NUM_CLASSES is 4"):
        engine.train(tiny_config({"MODEL.ROI_HEADS.NUM_CLASSES": 4}), tmp_path)


def test_plain_detectron2_checkpoint_resumes_without_random_state(
    whole: tuple[Path, Any], tmp_path: Path, engine: Any
) -> None:
    content = load_torch(whole[0] / "model_0000005.pth")
    del content["exact_resume"]
    save_torch(content, tmp_path / "model_0000005.pth")
    assert engine.train(whole[1], tmp_path, resume=True).iterations == 7


@pytest.mark.parametrize(
    ("damage", "settings", "message"),
    [
        (lambda c: c["trainer"].pop("_trainer"), {}, "was written by a different config"),
        (lambda c: c.update(trainer=[]), {}, "was written by a different config"),
        (lambda c: c.update(model=[]), {}, "was written by a different config"),
        (lambda c: c.update(iteration="x"), {}, "was written by a different config"),
        (lambda c: c["trainer"]["_trainer"].update(optimizer={"a": 1}), {}, "was written by a different config"),
        (lambda c: c.update(exact_resume=5), {}, "was written by a different config"),
        (lambda c: c.update(exact_resume={"rng": [{}]}), {}, "was written by a different config"),
        (lambda c: None, {"MODEL.FPN.OUT_CHANNELS": 16}, "was written by a different config"),
        (lambda c: None, {"SOLVER.MAX_ITER": 6}, "has 7 iterations, SOLVER.MAX_ITER is 6"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    damage: Callable[[dict[str, Any]], Any],
    settings: dict[str, Any],
    message: str,
    whole: tuple[Path, Any],
    tmp_path: Path,
    engine: Any,
    tiny_config: Callable[..., Any],
) -> None:
    content = load_torch(whole[0] / "model_final.pth")
    damage(content)
    save_torch(content, tmp_path / "model_final.pth")
    with pytest.raises(UserError, match=message):
        engine.train(tiny_config(LONG, settings), tmp_path, resume=True)


def test_a_damaged_pointer_is_passed_over(whole: tuple[Path, Any], tmp_path: Path, engine: Any) -> None:
    shutil.copy(whole[0] / "model_0000005.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_bytes(b"\xff\xfe\x00")
    assert engine.train(whole[1], tmp_path, resume=True).iterations == 7
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
