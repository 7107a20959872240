"""Where weights come from and what they demand of the config."""

import json

import numpy as np
import pytest

from convert.backbone_file import write_backbone
from convert.conversion import convert
from convert.preprocessing import IMAGENET, MSRA_BGR
from runtime.atomic import sha256_file
from runtime.errors import UserError
from runtime.torch_files import load_torch
from tests.transfer.prediction.trained import write_detector
from tests.transfer.toy_data import write_coco
from transfer.config import default_config, dump_config, load_config, merge_opts
from transfer.engines.weights.loading import is_detector, load_weights
from transfer.fine_tuning import weight_addresses as addresses
from transfer.fine_tuning.initialisation import (
    Init,
    apply_settings,
    evaluated_model,
    require_init,
    resolve_init,
    same_value,
)
from transfer.fine_tuning.weight_addresses import cached_path, local_weights, web_address


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A MoCo-style R18 checkpoint."""
    import torch
    from torchvision.models import resnet18

    torch.manual_seed(0)
    state = {f"module.encoder_q.{k}": v for k, v in resnet18(num_classes=128).state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "checkpoint_0199.pth.tar"
    torch.save({"epoch": 200, "arch": "resnet18", "state_dict": state, "optimizer": {}}, path)
    return path


@pytest.fixture(scope="module")
def backbone(checkpoint):
    path = checkpoint.with_name("r18.pkl")
    write_backbone(convert(checkpoint, verify=False), path)
    return path


def r18(**opts):
    cfg = default_config()
    pairs = {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64, **opts}
    merge_opts(cfg, [str(x) for pair in pairs.items() for x in pair])
    return cfg


def test_nothing_trains_from_random_weights_unasked(tmp_path):
    with pytest.raises(UserError, match="--init random"):
        resolve_init(None, default_config(), name=None, folder=tmp_path)


def test_a_backbone_sets_the_four_switches(backbone, tmp_path):
    cfg = r18()
    init = resolve_init(str(backbone), cfg, name=None, folder=tmp_path)
    assert (init.name, init.weights, init.sha256) == ("r18", backbone, sha256_file(backbone))
    changed = apply_settings(cfg, init, {})
    assert len(changed) == 4
    assert cfg.INPUT.FORMAT == "RGB"
    assert list(cfg.MODEL.PIXEL_STD) == IMAGENET.config()["MODEL.PIXEL_STD"]
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is False
    assert apply_settings(cfg, init, {}) == []
    assert init.record()["kind"] == "backbone"
    assert json.loads(json.dumps(init.record())) == init.record()


@pytest.mark.parametrize("key", list(MSRA_BGR.config()))
def test_an_explicit_contradiction_is_refused_by_key(backbone, tmp_path, key):
    cfg = r18()
    init = resolve_init(str(backbone), cfg, name=None, folder=tmp_path)
    with pytest.raises(UserError, match=f"{key} is .* in command line, but .*r18.pkl needs"):
        apply_settings(cfg, init, {key: "command line"})


def test_another_depth_is_refused_even_if_nobody_set_it(backbone, tmp_path):
    cfg = default_config()
    init = resolve_init(str(backbone), cfg, name=None, folder=tmp_path)
    with pytest.raises(UserError, match=r"MODEL\.RESNETS\.(DEPTH is 50|RES2_OUT_CHANNELS is 256)"):
        apply_settings(cfg, init, {})


def test_a_training_checkpoint_is_converted_on_the_way(checkpoint, tmp_path):
    init = resolve_init(str(checkpoint), r18(), name="moco", folder=tmp_path)
    assert init.name == "moco"
    assert init.weights == tmp_path / "backbone.pkl"
    assert init.sidecar["source"]["file"] == checkpoint.name


def test_the_backbone_of_the_run_in_the_folder_is_kept(checkpoint, tmp_path):
    import torch

    other = tmp_path / "other.pth.tar"
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["module.encoder_q.conv1.weight"] *= 2
    torch.save(content, other)
    run = tmp_path / "run"
    resolve_init(str(checkpoint), r18(), name=None, folder=run)
    files = {path: path.read_bytes() for path in run.iterdir()}
    init = resolve_init(str(other), r18(), name=None, folder=run)
    assert init.weights.name.startswith("backbone_")
    assert init.sidecar["source"]["file"] == other.name
    assert {path: path.read_bytes() for path in files} == files
    assert resolve_init(str(checkpoint), r18(), name=None, folder=run).weights == run / "backbone.pkl"


def test_an_evaluated_model_brings_the_input_it_was_trained_with(tmp_path):
    with pytest.raises(UserError, match="--eval-only: no file"):
        evaluated_model(tmp_path / "model_final.pth")
    (tmp_path / "model_final.pth").write_bytes(b"x")
    (tmp_path / "config.yaml").write_text(dump_config(r18(**IMAGENET.config())))
    cfg = r18()
    init = evaluated_model(tmp_path / "model_final.pth")
    assert len(apply_settings(cfg, init, {})) == 4
    assert cfg.INPUT.FORMAT == "RGB"
    with pytest.raises(UserError, match="DEPTH is 50"):
        apply_settings(default_config(), init, {})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder with a detector of three classes."""
    folder = tmp_path_factory.mktemp("first") / "coco_run"
    write_detector(folder, write_coco(tmp_path_factory.mktemp("data")))
    return folder


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_whole_detector_is_a_start_of_its_own_kind(trained, tmp_path, form):
    cfg = load_config(trained / "config.yaml")
    cfg.INPUT.FORMAT = "BGR"
    choice = trained if form == "folder" else trained / "model_final.pth"
    init = resolve_init(str(choice), cfg, name=None, folder=tmp_path)
    assert (init.name, init.weights) == ("coco_run", trained / "model_final.pth")
    assert init.record()["kind"] == "detector"
    assert init.record()["sha256"] == sha256_file(trained / "model_final.pth")
    assert apply_settings(cfg, init, {}) == ["INPUT.FORMAT = RGB"]  # as it was trained
    assert not list(tmp_path.iterdir())  # nothing is converted
    with pytest.raises(UserError, match="INPUT.FORMAT is BGR in command line"):
        cfg.INPUT.FORMAT = "BGR"
        apply_settings(cfg, init, {"INPUT.FORMAT": "command line"})


def test_everything_of_a_detector_that_fits_is_kept(trained, caplog):
    """With another number of classes only the predictor begins anew; the sentence says so."""
    from transfer.engines.torchvision.builder import build_model

    cfg = load_config(trained / "config.yaml")
    source = load_torch(trained / "model_final.pth")["model"]
    for classes, words in (
        (3, "kept backbone, proposal_generator, roi_heads.box_head, roi_heads.box_predictor; new nothing"),
        (5, "kept backbone, proposal_generator, roi_heads.box_head; new roi_heads.box_predictor"),
    ):
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
        model = build_model(cfg)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        caplog.clear()
        with caplog.at_level("INFO", logger="transfer_gap"):
            load_weights(model, trained / "model_final.pth")
        assert f"a whole detector as a start: {words}" in caplog.messages
        for name, value in model.state_dict().items():
            kept = classes == 3 or not name.startswith("roi_heads.box_predictor.")
            assert value.equal(source[name] if kept else before[name]), name


def test_a_backbone_is_not_taken_for_a_detector(backbone, checkpoint, trained):
    assert is_detector(trained / "model_final.pth")
    assert not is_detector(backbone)
    assert not is_detector(checkpoint)


def test_a_missing_file_or_folder_is_found_before_anything_is_read(tmp_path):
    for name in ("random", "supervised", "supervised-msra", "detectron2://x.pkl"):
        require_init(name)
    with pytest.raises(UserError, match="no such file"):
        require_init(str(tmp_path / "nope.pkl"))
    with pytest.raises(UserError, match="is a folder without model_final.pth"):
        require_init(str(tmp_path))


def test_random_takes_the_input_of_torchvision_backbones(tmp_path):
    cfg = r18()
    init = resolve_init("random", cfg, name=None, folder=tmp_path)
    apply_settings(cfg, init, {})
    assert cfg.INPUT.FORMAT == "RGB"
    assert init.record() == {"name": "random", "kind": "random", "weights": None, "sha256": None, "sidecar": None}


def test_supervised_baselines_exist_for_some_depths_only(tmp_path):
    with pytest.raises(UserError, match="ResNet-50 and ResNet-101"):
        resolve_init("supervised-msra", r18(), name=None, folder=tmp_path)
    with pytest.raises(UserError, match="no ResNet of MODEL.RESNETS.DEPTH 77"):
        resolve_init("supervised", r18(**{"MODEL.RESNETS.DEPTH": 77}), name=None, folder=tmp_path)


def test_msra_weights_keep_detectron2s_input(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    path = tmp_path / "detectron2/ImageNetPretrained/MSRA/R-50.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    init = resolve_init("supervised-msra", default_config(), name=None, folder=tmp_path)
    assert init.weights == path
    assert apply_settings(default_config(), init, {}) == []
    cfg = r18(**{"MODEL.RESNETS.STRIDE_IN_1X1": False})
    with pytest.raises(UserError, match="STRIDE_IN_1X1 is False in config x, but .*R-50.pkl needs True"):
        apply_settings(cfg, init, {"MODEL.RESNETS.STRIDE_IN_1X1": "config x"})


def test_addresses(tmp_path, monkeypatch):
    assert web_address("detectron2://a/b.pkl") == "https://dl.fbaipublicfiles.com/detectron2/a/b.pkl"
    assert web_address("runs/b.pkl") is None
    with pytest.raises(UserError, match="only paths"):
        web_address("s3://bucket/x")
    with pytest.raises(UserError, match="no such file"):
        local_weights(str(tmp_path / "none.pkl"))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    target = cached_path("https://example.org/models/x.pkl")
    assert target == tmp_path / "cache/models/x.pkl"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"content")
    assert local_weights("https://example.org/models/x.pkl") == target


def test_offline_says_what_to_download_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(addresses, "TIMEOUT_SECONDS", 2)
    url = "http://127.0.0.1:9/models/R-50.pkl"
    with pytest.raises(UserError, match="cannot download") as caught:
        local_weights(url)
    assert url in str(caught.value)
    assert str(tmp_path / "models/R-50.pkl") in str(caught.value)


def test_sidecars_with_unknown_keys_are_refused():
    with pytest.raises(UserError, match=r"MODEL\.NOSE is not a key"):
        apply_settings(default_config(), Init("x", settings={"MODEL.NOSE": 1}), {})


def test_a_sidecar_with_an_impossible_value_is_refused():
    for key, value in (("INPUT.FORMAT", "L"), ("MODEL.PIXEL_MEAN", "0"), ("MODEL.RESNETS.STRIDE_IN_1X1", 1)):
        with pytest.raises(UserError, match=f"{key} cannot be {value!r}"):
            apply_settings(default_config(), Init("x", sidecar={}, settings={key: value}), {})


def test_values_are_compared_as_numbers():
    assert same_value([1, 2.0], (1.0, 2))
    assert same_value(103.53, 103.530)
    assert not same_value(True, False)
    assert not same_value([1.0], [1.0, 2.0])
    assert not same_value(np.float64(57.12).item(), 57.375)
