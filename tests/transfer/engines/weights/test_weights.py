"""Reading MODEL.WEIGHTS: name matching, Caffe2 files, and the refusal to leave a backbone random."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import UserError
from transfer.engines.torchvision.builder import build_model
from transfer.engines.weights.loading import load_weights
from transfer.engines.weights.names import align, from_caffe2


def backbone_arrays(model: torch.nn.Module, prefix: str) -> dict[str, np.ndarray]:
    """Tensors of a model's ResNet under the bare names of a converted backbone, with new values."""
    rng = np.random.RandomState(0)
    return {
        name[len(prefix) :]: rng.randn(*value.shape).astype(np.float32) if value.is_floating_point() else np.array(3)
        for name, value in model.state_dict().items()
        if name.startswith(prefix)
    }


def write_pkl(path: Path, arrays: dict[str, Any], author: str | None = "tests") -> Path:
    content: Any = arrays
    if author is not None:
        content = {"model": arrays, "__author__": author, "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content))
    return path


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_backbone_file_sets_every_tensor_of_the_resnet(
    suffix: str, tmp_path: Path, tiny_config: Callable[..., Any]
) -> None:
    model = build_model(tiny_config())
    arrays = backbone_arrays(model, "backbone.bottom_up.")
    path = tmp_path / f"backbone{suffix}"
    if suffix == ".pkl":
        write_pkl(path, arrays)
    else:
        torch.save({"model": {k: torch.as_tensor(v) for k, v in arrays.items()}}, path)
    report = load_weights(model, path)
    state = model.state_dict()
    for name, value in arrays.items():
        assert np.array_equal(state[f"backbone.bottom_up.{name}"].numpy(), value), name
    assert not report.unused
    assert {name.split(".")[0] for name in report.missing} == {"backbone", "proposal_generator", "roi_heads"}
    assert not [name for name in report.missing if "bottom_up" in name]


def test_c4_takes_res5_into_its_head(tmp_path: Path, tiny_config: Callable[..., Any]) -> None:
    c4 = {
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.RESNETS.OUT_FEATURES": ["res4"],
        "MODEL.RPN.IN_FEATURES": ["res4"],
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64]],
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
        "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
        "MODEL.ROI_BOX_HEAD.NAME": "",
    }
    arrays = backbone_arrays(build_model(tiny_config()), "backbone.bottom_up.")
    model = build_model(tiny_config(c4))
    report = load_weights(model, write_pkl(tmp_path / "b.pkl", arrays))
    assert np.array_equal(model.state_dict()["roi_heads.res5.0.conv1.weight"].numpy(), arrays["res5.0.conv1.weight"])
    assert "roi_heads.res5.norm.weight" in report.missing


def test_missing_backbone_tensor_is_refused_and_model_untouched(
    tmp_path: Path, tiny_config: Callable[..., Any]
) -> None:
    model = build_model(tiny_config())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    arrays = backbone_arrays(model, "backbone.bottom_up.")
    del arrays["res4.2.conv2.weight"]
    with pytest.raises(UserError, match=r"1 tensors of the backbone.*backbone.bottom_up.res4.2.conv2.weight"):
        load_weights(model, write_pkl(tmp_path / "b.pkl", arrays))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_backbone_of_another_depth_is_refused(tmp_path: Path, tiny_config: Callable[..., Any]) -> None:
    arrays = backbone_arrays(build_model(tiny_config()), "backbone.bottom_up.")
    r18 = {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
    with pytest.raises(UserError, match=r"other shapes than the config asks for.*MODEL.RESNETS.DEPTH"):
        load_weights(build_model(tiny_config(r18)), write_pkl(tmp_path / "b.pkl", arrays))
    r101 = {"MODEL.RESNETS.DEPTH": 101}
    with pytest.raises(UserError, match="would stay random"):
        load_weights(build_model(tiny_config(r101)), write_pkl(tmp_path / "b.pkl", arrays))


def test_a_deeper_backbone_is_refused_though_every_shape_fits(tmp_path: Path, tiny_config: Callable[..., Any]) -> None:
    arrays = backbone_arrays(build_model(tiny_config()), "backbone.bottom_up.")
    deeper = {f"res4.6.{name[7:]}": value for name, value in arrays.items() if name.startswith("res4.5.")}
    model = build_model(tiny_config())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UserError, match=r"deeper than the config's, 1 blocks .* res4\.6; check MODEL.RESNETS.DEPTH"):
        load_weights(model, write_pkl(tmp_path / "b.pkl", {**arrays, **deeper}))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    one_map = {  # whose res5 has no place anywhere: a stage that is left out is no matter of depth
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.RESNETS.OUT_FEATURES": ["res4"],
        "MODEL.RPN.IN_FEATURES": ["res4"],
        "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64]],
    }
    report = load_weights(build_model(tiny_config(one_map)), write_pkl(tmp_path / "b.pkl", arrays))
    assert "res5.0.conv1.weight" in report.unused


def test_unconverted_checkpoint_is_refused(tmp_path: Path, tiny_config: Callable[..., Any]) -> None:
    torch.save({"state_dict": {"module.encoder_q.layer1.0.conv1.weight": torch.zeros(4, 4, 1, 1)}}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"convert/to_d2\.py"):
        load_weights(build_model(tiny_config()), tmp_path / "c.pth")


def test_pickle_that_would_run_code_is_not_executed(tmp_path: Path, tiny_config: Callable[..., Any]) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "executed",))

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Evil(), "__author__": "x"}))
    with pytest.raises(UserError):
        load_weights(build_model(tiny_config()), tmp_path / "evil.pkl")
    assert not (tmp_path / "executed").exists()


def test_caffe2_file_without_statistics_gives_identity_ones(tmp_path: Path, tiny_config: Callable[..., Any]) -> None:
    model = build_model(tiny_config({"MODEL.RESNETS.NORM": "FrozenBN", "MODEL.BACKBONE.FREEZE_AT": 2}))
    arrays = backbone_arrays(model, "backbone.bottom_up.")
    blobs: dict[str, Any] = {"fc1000_w": np.zeros((10, 256), np.float32), "fc1000_b": np.zeros(10, np.float32)}
    for name, value in arrays.items():
        if "running" in name or "num_batches" in name:
            continue
        old = (
            name.replace("stem.conv1.norm", "res_conv1_bn")
            .replace("stem.conv1", "conv1")
            .replace("shortcut", "branch1")
        )
        for index, letter in enumerate("abc", start=1):
            if name.startswith("res"):
                old = old.replace(f"conv{index}", f"branch2{letter}")
        old = old.replace(".norm.weight", ".bn.s").replace(".norm.bias", ".bn.b")
        old = old.replace("bn.weight", "bn.s").replace("bn.bias", "bn.b").replace(".weight", ".w")
        blobs[old.replace(".", "_")] = value
    load_weights(model, write_pkl(tmp_path / "R-50.pkl", blobs, author=None))
    state = model.state_dict()
    for name, value in arrays.items():
        if "running" not in name and "num_batches" not in name:
            assert np.array_equal(state[f"backbone.bottom_up.{name}"].numpy(), value), name
    assert torch.equal(state["backbone.bottom_up.res3.0.conv1.norm.running_mean"], torch.zeros(16))


def test_caffe2_background_moves_to_the_end() -> None:
    renamed = from_caffe2(
        {
            "cls_score_w": torch.arange(4.0)[:, None],
            "bbox_pred_b": torch.arange(16.0),
            "mask_fcn_logits_b": torch.arange(4.0),
            "fpn_inner_res4_5_sum_lateral_w": torch.zeros(1),
            "conv_rpn_fpn2_w": torch.zeros(1),
            "fc6_w": torch.zeros(1),
            "conv1_w_momentum": torch.zeros(1),
        }
    )
    assert renamed["cls_score.weight"].flatten().tolist() == [1, 2, 3, 0]
    assert renamed["bbox_pred.bias"].tolist() == list(range(4, 16))
    assert renamed["mask_head.predictor.bias"].tolist() == [1, 2, 3]
    assert {"fpn_lateral4.weight", "proposal_generator.rpn_head.conv.weight", "box_head.fc1.weight"} <= set(renamed)
    assert len(renamed) == 6


def test_longest_suffix_wins_and_one_tensor_fits_one_place() -> None:
    model = {"a.res2.conv1.weight": torch.zeros(1), "a.conv1.weight": torch.zeros(1)}
    file = {"conv1.weight": torch.zeros(1), "res2.conv1.weight": torch.zeros(1)}
    assert align(model, file) == {"a.res2.conv1.weight": "res2.conv1.weight", "a.conv1.weight": "conv1.weight"}
    with pytest.raises(UserError, match="matches both"):
        align(model, {"conv1.weight": torch.zeros(1)})


@pytest.mark.detectron2
@pytest.mark.parametrize(("norm", "level"), [(("bn_s", "bn_b", "bn_rm", "bn_riv"), ""), (("gn_s", "gn_b"), "_fpn2")])
def test_caffe2_names_equal_detectron2s(norm: tuple[str, ...], level: str) -> None:
    from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names

    stages = [f"res{s}_{b}_branch{k}" for s in (2, 5) for b in (0, 2) for k in ("1", "2a", "2b", "2c")]
    names = [f"{s}_{t}" for s in stages for t in ("w", *norm)] + [f"res_conv1_{t}" for t in norm]
    names += [f"{s}_{t}" for s in ("conv1", "pred", "fc6", "fc7", "cls_score", "bbox_pred") for t in "wb"]
    names += [f"{s}{level}_{t}" for s in ("conv_rpn", "rpn_bbox_pred", "rpn_cls_logits") for t in "wb"]
    names += ["head_conv1_w", f"head_conv1_{norm[0]}", "_[mask]_fcn1_w", "conv5_mask_b", "mask_fcn_logits_w"]
    names += ["fpn_inner_res5_2_sum_w", "fpn_inner_res4_5_sum_lateral_b", "fpn_res2_2_sum_w"]
    blobs = {name: torch.arange(float(8 + i)) for i, name in enumerate(names)}
    theirs, _ = convert_c2_detectron_names(blobs)
    ours = from_caffe2(blobs)
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_backbone_file_is_no_trained_detector(tmp_path: Path, tiny_config: Callable[..., Any], engine: Any) -> None:
    cfg = tiny_config()
    model = build_model(cfg)
    path = write_pkl(tmp_path / "backbone.pkl", backbone_arrays(model, "backbone.bottom_up."))
    with pytest.raises(UserError, match=r"tensors of the detector are not in it .*only a trained detector"):
        engine.detect(cfg, path, cfg.DATASETS.TEST[0])
    torch.save({"model": model.state_dict()}, tmp_path / "whole.pth")
    assert not load_weights(model, tmp_path / "whole.pth", trained=True).missing
    more_classes = build_model(tiny_config({"MODEL.ROI_HEADS.NUM_CLASSES": 4}))
    with pytest.raises(UserError, match=r"another shape, e\.g\. roi_heads"):
        load_weights(more_classes, tmp_path / "whole.pth", trained=True)
