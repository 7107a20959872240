"""MoCo v3: the loss and its gradients in float64 written anew, official names, momentum, optimisers, ViTs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn
from torch.nn import functional as F

from pretrain.encoders import build_encoder
from pretrain.encoders.reading import read_encoder
from pretrain.encoders.vit import Size, VisionTransformer, sine_positions
from pretrain.methods.moco_v3 import MoCoV3, mlp
from pretrain.settings.options import parse
from pretrain.settings.schedule import Schedule
from pretrain.training.optimiser import SkippableAdamW, SkippableLARS
from pretrain.training.run import pretrain
from pretrain.views import build_views
from pretrain.views.device_colour import COLUMNS, Column
from runtime.distributed import World
from runtime.errors import UserError

SMALL = ["--method", "moco_v3", "--image-size", "32", "-b", "8", "--epochs", "2", "--moco-mlp-dim", "16",
         "--moco-dim", "8", "-p", "1", "--knn-every", "0", "--keep", "0", "-j", "0"]  # fmt: skip
VIT = [*SMALL, "-a", "vit_tiny", "--optimizer", "adamw", "--lr", "0.01", "--stop-grad-conv1"]
RESNET = [*SMALL, "-a", "resnet18", "--optimizer", "lars", "--moco-m-cos"]
TINY = Size(32, 2, 2)


def tiny_vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(TINY, image_size=32, outputs=1)


def run(images: Path, folder: Path, *flags: str | Path) -> Path:
    settings = parse([str(images), "--output", str(folder), *map(str, flags)])
    assert pretrain(settings, World(0, 1, 0, torch.device("cpu"))) == 0
    return folder


def by_hand(q: np.ndarray, k: np.ndarray, temperature: float) -> float:
    """Algorithm 1's ctr(q, k) in float64 with numpy: mean over queries of -log softmax of the own key, times 2 tau."""
    q, k = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, k))
    logits = q @ k.T / temperature
    own = np.diag(logits) - np.log(np.exp(logits).sum(1))
    return float(-2 * temperature * own.mean())


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_loss_and_gradients_are_those_of_the_paper(temperature: float) -> None:
    torch.manual_seed(0)
    method = MoCoV3(tiny_vit(), dim=8, hidden=16, temperature=temperature).double()
    with torch.no_grad():
        for parameter in method.momentum_encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    views = [torch.randn(6, 3, 32, 32, dtype=torch.float64) for _ in range(2)]
    none = torch.empty(0)

    def encode(images: torch.Tensor, *parts: nn.Module) -> torch.Tensor:
        for part in parts:
            images = part(images)
        return images

    queries = [encode(view, method.base_encoder, method.predictor) for view in views]
    keys = [encode(view, method.momentum_encoder).detach() for view in views]
    pairs = [(queries[0], keys[1]), (queries[1], keys[0])]
    expected = sum(by_hand(q.detach().numpy(), k.numpy(), temperature) for q, k in pairs)
    # embeddings are taken to float32, as in training
    loss = method.loss(views, none, none)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    gradient = method.predictor[0].weight.grad.clone()
    method.zero_grad()
    written = sum(
        -2 * temperature * F.log_softmax(F.normalize(q) @ F.normalize(k).T / temperature, dim=1).diagonal().mean()
        for q, k in ((encode(a, method.base_encoder, method.predictor), k) for a, k in zip(views, reversed(keys)))
    )
    written.backward()
    assert torch.allclose(method.predictor[0].weight.grad, gradient, rtol=1e-4, atol=1e-7)
    assert all(p.grad is None for p in method.momentum_encoder.parameters())
    assert method.chance == pytest.approx(4 * temperature * math.log(256))


def test_names_and_heads_are_the_official_ones() -> None:
    """builder.py: of a ResNet fc of two layers, predictor without a last norm; of a ViT a head of three, with it."""
    resnet = MoCoV3(build_encoder("resnet18", outputs=1), dim=8, hidden=16).export_state()
    vit = MoCoV3(tiny_vit(), dim=8, hidden=16).export_state()
    for state, head, layers, last in ((resnet, "fc", (0, 3), False), (vit, "head", (0, 3, 6), True)):
        for encoder in ("base_encoder", "momentum_encoder"):
            weights = {k for k in state if k.startswith(f"module.{encoder}.{head}.") and state[k].ndim == 2}
            assert weights == {f"module.{encoder}.{head}.{n}.weight" for n in layers}
            assert not any(f"module.{encoder}.{head}.{n}.bias" in state for n in layers)
        assert f"module.base_encoder.{head}.{layers[-1] + 1}.running_mean" in state
        assert f"module.base_encoder.{head}.{layers[-1] + 1}.weight" not in state  # a norm without affine
        assert ("module.predictor.4.running_mean" in state) == last
    assert {"module.base_encoder.cls_token", "module.base_encoder.blocks.1.attn.qkv.weight"} <= vit.keys()


def test_the_momentum_rises_to_one() -> None:
    method = MoCoV3(tiny_vit(), dim=8, hidden=16, momentum=0.9, total_steps=10)
    found = []
    for method.step in (0, 5, 10):
        found.append(method.momentum_now())
    assert found == pytest.approx([0.9, 0.95, 1.0])
    assert MoCoV3(tiny_vit(), dim=8, hidden=16, momentum=0.9).momentum_now() == 0.9
    method.step = 0
    with torch.no_grad():
        method.base_encoder.cls_token += 1.0
    before = method.momentum_encoder.cls_token.clone()
    method.begin_step()
    assert torch.allclose(method.momentum_encoder.cls_token, before + 0.1)


def test_patches_can_stay_random() -> None:
    method = MoCoV3(tiny_vit(), dim=8, hidden=16, stop_grad_patches=True)
    trained = {id(p) for p in method.trained_parameters()}
    frozen = [name for name, p in method.base_encoder.named_parameters() if id(p) not in trained]
    assert frozen == ["pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]


def test_rates_follow_the_official_schedule() -> None:
    """main_moco.py, adjust_learning_rate: by step, from 0, and half a cosine over what follows the warm-up."""
    schedule = Schedule(0.6, 1000, 100, cos=True, after_warmup=True, warmup_steps=200)

    def official(step: int) -> float:
        epoch = step / 100
        return 0.6 * epoch / 2 if epoch < 2 else 0.6 * 0.5 * (1 + math.cos(math.pi * (epoch - 2) / (10 - 2)))

    assert [schedule.rate(s) for s in range(1000)] == pytest.approx([official(s) for s in range(1000)])


def test_lars_is_the_official_update() -> None:
    torch.manual_seed(0)
    weight, bias = (nn.Parameter(torch.randn(*shape)) for shape in ((4, 3), (4,)))
    ours = SkippableLARS([weight, bias], 0.5, momentum=0.9, weight_decay=0.01)
    w, b, mu_w, mu_b = weight.detach().clone(), bias.detach().clone(), torch.zeros(4, 3), torch.zeros(4)
    for _ in range(3):
        weight.grad, bias.grad = torch.randn(4, 3), torch.randn(4)
        step = weight.grad + 0.01 * w
        mu_w = 0.9 * mu_w + step * (0.001 * w.norm() / step.norm())
        mu_b = 0.9 * mu_b + bias.grad  # neither decay nor a rate of its own
        w, b = w - 0.5 * mu_w, b - 0.5 * mu_b
        ours.update(torch.tensor(False))
    assert torch.allclose(weight, w, rtol=1e-6)
    assert torch.allclose(bias, b, rtol=1e-6)


@pytest.mark.parametrize("kind", [SkippableLARS, SkippableAdamW])
def test_a_refused_step_changes_nothing(kind: type) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3))
    optimizer = kind([weight], 0.1, weight_decay=0.1)
    for refused in (True, False, True):
        before = weight.detach().clone(), {k: v.clone() for k, v in optimizer.state[weight].items()}
        weight.grad = torch.full((4, 3), math.nan) if refused else torch.randn(4, 3)
        optimizer.update(torch.tensor(refused))
        assert torch.equal(weight, before[0]) == refused
        same = all(torch.equal(v, before[1][k]) for k, v in optimizer.state[weight].items())
        assert same == refused
    assert torch.isfinite(weight).all()


def test_adamw_is_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(5, 2)) for _ in range(2))
    optimizer = SkippableAdamW([ours], 0.01, weight_decay=0.1)
    reference = torch.optim.AdamW([theirs], 0.01, weight_decay=0.1, fused=True)
    for _ in range(4):
        ours.grad = torch.randn(5, 2)
        theirs.grad = ours.grad.clone()
        optimizer.update(torch.tensor(False))
        reference.step()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("on", ["cpu", "device"])
def test_the_views_are_unlike_and_solarized_as_by_pil(on: str) -> None:
    views = build_views("v3", image_size=16, aug_on=on)
    table = views.params(views.draw(0, 0, np.arange(4000)))
    assert (table[0][:, Column.TAPS] < 1).all()
    assert (table[1][:, Column.TAPS] < 1).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert not table[0][:, Column.SOLARIZE].any()
    assert table[1][:, Column.SOLARIZE].mean().item() == pytest.approx(0.2, abs=0.02)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    only = torch.zeros(COLUMNS)
    only[[Column.BRIGHTNESS, Column.CONTRAST, Column.SATURATION, Column.TAPS, Column.SOLARIZE]] = 1.0
    expected = np.asarray(ImageOps.solarize(Image.fromarray(pixels), 128))
    if on == "cpu":
        out = pixels.copy()[None]
        views.finish_on_cpu(out, only[None])
        assert np.array_equal(out[0], expected)
    else:
        from pretrain.views.device_colour import augment

        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        found = (augment(x.clone(), only[None]) * 255).round()[0].permute(1, 2, 0).numpy()
        assert np.array_equal(found, expected)


def test_other_views_are_what_they_were() -> None:
    """A further use of random numbers must not move the others: runs of earlier versions are continued."""
    assert not build_views("v2", image_size=16).params(build_views("v2").draw(0, 0, np.arange(9)))[..., -1].any()
    first = build_views("v2").draw(3, 1, np.arange(4))[..., :32]
    from runtime.counter_random import uniforms

    assert np.array_equal(first, uniforms(3, 1, np.arange(4), 2, 32))


def test_a_vit_is_timms() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    ours = VisionTransformer(TINY, image_size=32, outputs=3).eval()
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=2, num_heads=2, num_classes=3
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs(images), rtol=1e-5, atol=1e-6)
        assert torch.allclose(ours.pooled(images), theirs.forward_features(images)[:, 0], rtol=1e-5, atol=1e-6)


def test_positions_are_sines_and_cosines() -> None:
    table = sine_positions(3, 16)
    assert table.shape == (1, 10, 16)
    assert not table[0, 0].any()
    for row in range(3):
        for column in range(3):
            found = table[0, 1 + 3 * row + column]
            omega = [10000.0 ** (-d / 4) for d in range(4)]
            parts = [f(place * w) for place in (row, column) for f in (math.sin, math.cos) for w in omega]
            assert found.tolist() == pytest.approx(parts, abs=1e-6)


def test_heads_are_built_as_in_the_official_code() -> None:
    names = [type(layer).__name__ for layer in mlp(3, 4, 8, 2)]
    assert names == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert [type(layer).__name__ for layer in mlp(2, 4, 8, 2, last_norm=False)][-1] == "Linear"


@pytest.mark.parametrize("flags", [VIT, RESNET, [*VIT, "--accumulate", "2", "--precision", "bf16"]])
def test_a_resumed_run_ends_with_the_same_bits(tiny_images: Path, tmp_path: Path, flags: list[str]) -> None:
    whole = run(tiny_images, tmp_path / "a", *flags)
    again = run(tiny_images, tmp_path / "b", *flags, "--resume", whole / "checkpoint_0000.pth.tar")
    one, other = (torch.load(f / "checkpoint_0001.pth.tar", weights_only=True) for f in (whole, again))
    torch.testing.assert_close(one["state_dict"], other["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(one["optimizer"], other["optimizer"], rtol=0, atol=0)
    assert one["state_dict"].keys() >= {"module.predictor.0.weight"}


@pytest.mark.parametrize(("flags", "arch"), [(VIT, "vit_ti16"), (RESNET, "resnet18")])
def test_probes_and_converter_read_its_checkpoints(
    tiny_images: Path, tmp_path: Path, flags: list[str], arch: str
) -> None:
    from convert.conversion import convert
    from pretrain.encoders import pooled_features

    file = run(tiny_images, tmp_path / "run", *flags, "--epochs", "1") / "checkpoint_0000.pth.tar"
    backbone = convert(file)
    assert backbone.architecture.name == arch
    assert backbone.encoder == "query"
    read = read_encoder(file)
    state = torch.load(file, weights_only=True)["state_dict"]
    encoder = build_encoder(flags[flags.index("-a") + 1], outputs=1, image_size=32)
    own = {k.removeprefix("module.base_encoder."): v for k, v in state.items() if "base_encoder" in k}
    encoder.load_state_dict({k: v for k, v in own.items() if not k.startswith(("head.", "fc."))}, strict=False)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(pooled_features(read.network, images), pooled_features(encoder.eval(), images), atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "moco", "-a", "vit_small"], "-a vit_small is for --method moco_v3 and supervised"),
        (["--method", "moco_v3", "-a", "vit_small", "--image-size", "40"], "must be a multiple of 16"),
        (["--method", "moco_v3", "-a", "vit_small", "--stem", "cifar"], "--stem and --bn-splits are for ResNets"),
        ([*SMALL, "-a", "resnet18", "--mlp"], "--mlp is not for --method moco_v3, which has a projector"),
        ([*SMALL, "-a", "resnet18", "--bn-splits", "2"], "--bn-splits is not for --method moco_v3"),
        ([*SMALL, "-a", "resnet18", "--stop-grad-conv1"], "--stop-grad-conv1 is not for --method moco_v3, which has"),
        ([*SMALL, "-a", "vit_conv_small", "--stop-grad-conv1"], "learns convolutions instead"),
        (["--method", "moco", "--moco-m-cos"], "--moco-m-cos is an option of --method moco_v3"),
    ],
)
def test_what_does_not_fit_is_named(tiny_images: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(tiny_images, tmp_path / "x", "-b", "8", "--image-size", "32", *flags)
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_vit_learns_to_tell_images_apart(tmp_path: Path) -> None:
    """Sixteen patterns of stripes and 300 steps; without learning the loss stays at 4 tau log 16."""
    from runtime.metrics import read_metrics

    (tmp_path / "images" / "stripes").mkdir(parents=True)
    rows, columns = np.mgrid[:48, :48]
    for k in range(16):
        along = columns * math.cos(math.pi * k / 16) + rows * math.sin(math.pi * k / 16)
        grey = 127 + 110 * np.sin((0.25 + 0.15 * (k % 4)) * along)
        pixels = np.stack([grey] * 3, axis=-1).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / "stripes" / f"{k}.png")
    flags = ["--method", "moco_v3", "-a", "vit_tiny", "--image-size", "32", "-b", "16", "--epochs", "300", "-j", "0"]
    rates = ["--optimizer", "adamw", "--lr", "0.016", "--wd", "0", "--warmup-epochs", "10", "--moco-t", "0.2"]
    rest = ["--moco-mlp-dim", "64", "--stop-grad-conv1", "-p", "1", "--knn-every", "0", "--save-every", "300"]
    folder = run(tmp_path / "images", tmp_path / "run", *flags, *rates, *rest)
    losses = [record["loss"] for record in read_metrics(folder / "metrics.json") if "loss" in record]
    assert np.mean(losses[:5]) == pytest.approx(4 * 0.2 * math.log(16), rel=0.05)
    assert np.mean(losses[-10:]) < 0.9 * 4 * 0.2 * math.log(16)
