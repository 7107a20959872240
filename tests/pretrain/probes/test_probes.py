"""kNN, alignment, uniformity and the linear probe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pretrain.encoders import build_encoder, pooled_features
from pretrain.encoders.reading import read_encoder
from pretrain.images import fingerprints, open_images
from pretrain.images.source import evenly
from pretrain.probes.knn import ProbeImages, alignment, extract, knn_accuracy, uniformity
from pretrain.views import build_views
from runtime.errors import UserError


def test_knn_equals_votes_counted_one_by_one() -> None:
    torch.manual_seed(0)
    bank, queries = F.normalize(torch.randn(60, 8), dim=1), F.normalize(torch.randn(30, 8), dim=1)
    bank_labels, labels = torch.randint(4, (60,)), torch.randint(4, (30,))
    right = 0
    for query, truth in zip(queries.numpy(), labels.tolist()):
        similarity = bank.numpy() @ query
        votes = np.zeros(4)
        for neighbour in np.argsort(-similarity)[:20]:
            votes[bank_labels[neighbour]] += np.exp(similarity[neighbour] / 0.1)
        right += votes.argmax() == truth
    assert knn_accuracy(bank, bank_labels, queries, labels, k=20) == pytest.approx(100 * right / 30)
    assert knn_accuracy(bank, bank_labels, bank, bank_labels, k=1) == 100


def test_alignment_and_uniformity() -> None:
    from scipy.spatial.distance import pdist

    torch.manual_seed(0)
    x, y = F.normalize(torch.randn(40, 5), dim=1), F.normalize(torch.randn(40, 5), dim=1)
    assert alignment(x, x) == 0
    assert alignment(x, y) == pytest.approx(np.mean(np.linalg.norm(x - y, axis=1) ** 2), rel=1e-5)
    assert uniformity(x) == pytest.approx(np.log(np.exp(-2 * pdist(x.numpy(), "sqeuclidean")).mean()), rel=1e-4)


def test_evenly() -> None:
    assert evenly(5, 0).tolist() == evenly(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert evenly(101, 3).tolist() == [0, 50, 100]


@pytest.mark.parametrize("prefix", ["module.encoder_q.", "module.", ""])
def test_encoder_is_found_under_every_prefix(tmp_path: Path, prefix: str) -> None:
    saved = build_encoder("resnet18", outputs=16, mlp=prefix.endswith("q."), stem="cifar")
    state = {prefix + k: v for k, v in saved.state_dict().items()}
    torch.save({"arch": "resnet18", "state_dict": {**state, "module.queue": torch.zeros(2, 2)}}, tmp_path / "c.pth")
    read = read_encoder(tmp_path / "c.pth")
    torch.testing.assert_close(read.network.state_dict(), saved.state_dict())
    assert read.has_head
    del state[prefix + "layer2.0.conv1.weight"]
    torch.save({"arch": "resnet18", "state_dict": state}, tmp_path / "short.pth")
    with pytest.raises(UserError, match="lacks 1 tensors of resnet18, the first is layer2.0.conv1.weight"):
        read_encoder(tmp_path / "short.pth")


def test_checkpoint_without_encoder_is_refused(tmp_path: Path) -> None:
    torch.save({"arch": "resnet18", "state_dict": {"module.fc.weight": torch.zeros(1)}}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"c\.pth belongs to no known family"):
        read_encoder(tmp_path / "c.pth")


@pytest.mark.parametrize("key", ["layer1.2.conv1.weight", "layer3.0.se.fc.weight", "attnpool.weight"])
def test_tensors_that_the_encoder_lacks_are_refused(key: str, tmp_path: Path) -> None:
    """Such as those of a ResNet-34 under -a resnet18, whose other half would not be used."""
    state = build_encoder("resnet18", outputs=4).state_dict() | {key: torch.zeros(64)}
    torch.save({"arch": "resnet18", "state_dict": state}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=f"is not a resnet18: it has 1 more tensors .{key}"):
        read_encoder(tmp_path / "c.pth")


def test_the_blocks_of_a_resnet34_are_not_left_out(tmp_path: Path) -> None:
    torch.save(
        {"arch": "resnet34", "state_dict": build_encoder("resnet34", outputs=4).state_dict()}, tmp_path / "c.pth"
    )
    with pytest.raises(UserError, match="more tensors"):
        read_encoder(tmp_path / "c.pth", "resnet18")
    assert read_encoder(tmp_path / "c.pth").arch == "resnet34"


def moco_v3(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    other = {f"module.momentum_encoder.{k}": v for k, v in weights.items()}
    heads = {"module.predictor.0.weight": torch.zeros(4, 4), "module.base_encoder.fc.0.weight": torch.zeros(4, 4)}
    return {
        "arch": "resnet18",
        "state_dict": {f"module.base_encoder.{k}": v for k, v in weights.items()} | other | heads,
    }


def simsiam(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    heads = {f"module.{name}.weight": torch.zeros(4, 4) for name in ("predictor.0", "predictor.3", "encoder.fc.0")}
    return {"arch": "resnet18", "state_dict": {f"module.encoder.{k}": v for k, v in weights.items()} | heads}


def plain(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    return weights | {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}


def nested(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {"arch": "resnet18", "state_dict": {f"module.{k}": v for k, v in weights.items()}}


def headless(arch: str) -> Any:
    from torchvision.models import get_model

    torch.manual_seed(0)
    network = get_model(arch, weights=None).eval()
    network.fc = torch.nn.Identity()
    return network


@pytest.mark.parametrize("layout", [moco_v3, simsiam, plain, nested])
def test_what_converts_can_be_probed(layout: Callable, tmp_path: Path) -> None:
    network = headless("resnet18")
    torch.save(layout(network.state_dict()), tmp_path / "c.pth")
    read = read_encoder(tmp_path / "c.pth")
    assert read.arch == "resnet18"
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(pooled_features(read.network, images), network(images))
    with pytest.raises(UserError):
        read_encoder(tmp_path / "c.pth", "resnet34")


def test_a_converted_backbone_sees_images_as_it_was_trained(tmp_path: Path) -> None:
    """With the sidecar's preprocessing: BGR pixels from 0 to 255, mean subtracted, stride in the first convolution."""
    from convert.backbone_file import write_backbone
    from convert.conversion import convert
    from convert.preprocessing import MSRA_BGR

    reference = headless("resnet50")
    torch.save(reference.state_dict(), tmp_path / "c.pth")
    backbone = convert(tmp_path / "c.pth", preprocessing=MSRA_BGR, verify=False)
    (file, *_) = write_backbone(backbone, tmp_path / "backbone")
    pixels = torch.rand(2, 3, 64, 64) * 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))
    read = read_encoder(file)
    for module in reference.modules():
        if hasattr(module, "conv3"):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
    with torch.no_grad():
        expected = reference((pixels - mean).flip(1))
        torch.testing.assert_close(pooled_features(read.network, (pixels - mean) / std), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layout", ["ours", "moco_v3"])
def test_weights_that_are_not_finite_are_refused(layout: str, tmp_path: Path) -> None:
    weights = {name: value.clone() for name, value in headless("resnet18").state_dict().items()}
    weights["layer2.0.conv1.weight"][0] = torch.nan
    torch.save(nested(weights) if layout == "ours" else moco_v3(weights), tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"layer2\.0\.conv1\.weight holds NaN or Inf"):
        read_encoder(tmp_path / "c.pth")


def test_features_that_are_not_finite_are_refused(tiny_images: Path) -> None:
    """Finite weights can overflow; the accuracy of a NaN would look like a number."""
    images = ProbeImages(build_views("eval", image_size=32), torch.device("cpu"))
    source = open_images(tiny_images, labels=True)
    with pytest.raises(UserError, match="features are not finite"):
        extract(lambda batch: batch.mean((2, 3)) / 0, source, images)


def test_linear_probe_learns_stripes_and_leaves_the_encoder(
    tiny_images: Path, tmp_path: Path, run_cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random encoder tells three directions of stripes apart; its BatchNorm statistics must not move."""
    from pretrain.probes import linear
    from runtime.distributed import World

    torch.manual_seed(0)
    encoder = build_encoder("resnet18", outputs=16)
    torch.save({"arch": "resnet18", "state_dict": encoder.state_dict()}, tmp_path / "c.pth")
    settings = linear.LinearSettings(
        str(tiny_images), str(tmp_path / "c.pth"), tmp_path / "run", lr=0.01, batch_size=8, image_size=32, epochs=15,
        schedule=(10,), workers=0,
    )  # fmt: skip
    here = World(0, 1, 0, torch.device("cpu"))
    held: list[linear.LinearProbe] = []
    build = linear.LinearProbe.__init__

    def watched(self: linear.LinearProbe, *arguments: Any) -> None:
        held.append(self)
        build(self, *arguments)

    monkeypatch.setattr(linear.LinearProbe, "__init__", watched)
    assert linear.probe(settings, here) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["top1"] > 50
    now = held[0].encoder.state_dict()
    assert all(torch.equal(now[name], value) for name, value in encoder.state_dict().items())
    assert result["schedule"] == [10]
    settings = replace(settings, resume=True)
    assert linear.probe(settings, here) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["top1"] == result["top1"]
    with pytest.raises(UserError, match="other lr"):
        linear.probe(replace(settings, lr=1.0), here)
    saved = torch.load(tmp_path / "run" / "linear.pth.tar", weights_only=True)
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "SAMPLE", 10)  # all 33 and 9 files were recorded, as earlier versions did
        assert linear.probe(settings, here) == 0
        data = json.loads((tmp_path / "run" / "result.json").read_text())["data"]
        assert [one.startswith("sampled:") for one in data] == [True, False]
        torch.save({**saved, "made": {**saved["made"], "data": ["ab" * 32] * 2}}, tmp_path / "run" / "linear.pth.tar")
        with pytest.raises(UserError, match="other data;"):
            linear.probe(settings, here)
    for change, message in (
        ({"step": 10**12}, "step is 1000000000000, the probe has 60"),
        ({"step": "7"}, "step is '7'"),
        ({"classifier": {}}, "is damaged or was edited"),
        ({"optimizer": [1]}, "is damaged or was edited"),
        ({"made": 3}, "does not say what it was made with"),
    ):
        torch.save({**saved, **change}, tmp_path / "run" / "linear.pth.tar")
        with pytest.raises(UserError, match=message):
            linear.probe(settings, here)
    shutil.copy(tmp_path / "c.pth", tmp_path / "run" / "linear.pth.tar")
    with pytest.raises(UserError, match=r"linear.pth.tar: not the checkpoint of a linear probe"):
        linear.probe(settings, here)


def test_probes_look_at_images_as_the_recipe_does(
    tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After --views cifar the kNN monitor, features.py and the linear probe see whole images."""
    from pretrain import features, linear_probe, views
    from pretrain.probes import linear
    from pretrain.settings.options import parse
    from pretrain.training import knn_monitor
    from pretrain.training.run import pretrain
    from runtime.distributed import World

    seen: list[str] = []
    build = views.build_views

    def watched(kind: str, **options: Any) -> views.Views:
        seen.append(kind)
        return build(kind, **options)

    for module in (knn_monitor, views, linear):
        monkeypatch.setattr(module, "build_views", watched)
    small = ["-a", "resnet18", "--image-size", "32", "-b", "8", "--epochs", "1", "--moco-k", "32", "-j", "0"]
    here = World(0, 1, 0, torch.device("cpu"))
    pretrain(parse([str(tiny_images), *small, "--views", "cifar", "--output", str(tmp_path / "run")]), here)
    assert seen == ["whole"]
    checkpoint = str(tmp_path / "run" / "checkpoint_0000.pth.tar")
    monkeypatch.setattr("sys.argv", ["features.py", checkpoint, str(tiny_images), "-j", "0"])
    features.main()
    assert seen == ["whole", "whole", "v1"]
    flags = ["--pretrained", checkpoint, "-b", "8", "--epochs", "1", "--lr", "0.1", "-j", "0", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["linear_probe.py", str(tiny_images), *flags])
    assert linear_probe.main() == 0
    assert json.loads((tmp_path / "run" / "checkpoint_0000_linear" / "result.json").read_text())["epochs"] == 1
    assert seen[3:] == ["supervised", "whole"]


@pytest.mark.parametrize(("flag", "message"), [
    ("-j", "-j/--workers: must be a whole number, 0 or more, not -1"),
    ("--epochs", "--epochs: must be a whole number, 1 or more, not -1"),
    ("--lr", "--lr must be above 0 and a number that float32 can hold (1.2e-38 to 3.4e+38), not -1.0"),
    ("--wd", "--weight-decay must be 0 or more and a finite number, not -1.0"),
])  # fmt: skip
def test_linear_probe_refuses_values_out_of_range(flag: str, message: str, run_cli: Callable) -> None:
    done = run_cli(["pretrain/linear_probe.py", "DIR", "--pretrained", "c.pth", flag, "-1"], check=2)
    assert message in done.stderr


def test_features_of_a_checkpoint(tiny_images: Path, tmp_path: Path, run_cli: Callable) -> None:
    encoder = build_encoder("resnet18", outputs=16)
    torch.save({"arch": "resnet18", "state_dict": encoder.state_dict()}, tmp_path / "c.pth")
    out = tmp_path / "numbers.json"
    run_cli(["pretrain/features.py", tmp_path / "c.pth", tiny_images, "--image-size", "32", "--output", out], check=0)
    numbers = json.loads(out.read_text())
    assert (numbers["train_images"], numbers["val_images"]) == (33, 9)
    assert 0 <= numbers["knn"] <= 100
    assert numbers["alignment"] > 0 > numbers["uniformity"]
    (tmp_path / "data").mkdir()
    shutil.copytree(tiny_images / "val", tmp_path / "data" / "val")
    shutil.copytree(tiny_images / "train" / "class1", tmp_path / "data" / "train" / "other")
    done = run_cli(["pretrain/features.py", tmp_path / "c.pth", tmp_path / "data", "--image-size", "32"], check=2)
    assert "differ (only in val: class0, class1, class2; only in train: other)" in done.stderr
