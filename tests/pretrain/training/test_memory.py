"""The estimate of a run's memory, and what it says to lower."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from pretrain.methods.row import Sizes
from pretrain.settings.options import parse
from pretrain.training.memory import Estimate, activation_bytes, estimate
from runtime import free_memory
from runtime.autograd_memory import kept_bytes
from runtime.distributed import World

GIB = 2**30
HERE = World(0, 1, 0, torch.device("cpu"))


def test_kept_bytes_are_those_of_the_layers() -> None:
    """Two layers whose kept tensors can be counted by hand: the input of each, and the output of the in-place ReLU."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1))
    image, hidden = 3 * 10 * 10 * 4, 8 * 10 * 10 * 4
    two, four = (kept_bytes(partial(layers, torch.zeros(count, 3, 10, 10))) for count in (2, 4))
    assert four - two == 2 * (image + hidden)


def test_activations_of_a_resnet50_are_what_is_known() -> None:
    """81.9 MiB an image of 224 pixels in float32, and a quarter of the pixels need a quarter."""
    model = parse(["DIR", "-a", "resnet50"]).model
    assert activation_bytes(model, 224) / 2**20 == pytest.approx(81.9, abs=0.2)
    assert activation_bytes(model, 112) / activation_bytes(model, 224) == pytest.approx(0.25, abs=0.02)


def of(flags: list[str], batch: int, parts: int = 1) -> Estimate:
    settings = parse(["DIR", "-a", "resnet18", "--image-size", "96", "-b", str(batch), "--moco-k", "4096", *flags])
    sizes = Sizes(9000, 10, batch, 9000 // batch, parts)
    return estimate(settings, sizes, HERE, settings.build_method(sizes), 0)


def test_the_estimate_follows_the_options_that_change_the_memory() -> None:
    plain = of([], 128)
    assert plain.images == 128
    assert of(["--accumulate", "4"], 128, parts=4).images == 32
    assert of(["--symmetric"], 128).per_image > 1.8 * plain.per_image
    assert of(["--method", "end_to_end"], 128).per_image > 1.8 * plain.per_image
    assert of(["--precision", "bf16"], 128).per_image < 0.6 * plain.per_image
    assert of([], 256).needed - plain.needed == pytest.approx(128 * plain.per_image, rel=0.05)


@pytest.mark.parametrize(
    ("estimated", "words"),
    [
        (Estimate(2 * GIB, 3 * GIB, GIB // 64, 64), ["about 2.0 GiB", "3.0 GiB are free"]),
        (Estimate(2 * GIB, None, GIB // 64, 64), ["about 2.0 GiB"]),
        (Estimate(9 * GIB, 5 * GIB, GIB // 8, 64), ["not enough", "--batch-size by a factor of 2.0", "--accumulate 2"]),
        (Estimate(9 * GIB, GIB // 2, GIB // 8, 64), ["not enough; choose a smaller"]),
    ],
)
def test_the_line_says_what_to_lower(estimated: Estimate, words: list[str]) -> None:
    line = estimated.line()
    assert all(word in line for word in words)
    assert ("not enough" in line) == (not estimated.fits)


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "CGROUP", tmp_path)
    machine = free_memory.free_memory()
    assert machine is not None
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory.free_memory() == pytest.approx(machine, rel=0.5)
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("2500\n")
    (tmp_path / "memory.stat").write_text("anon 2000\ninactive_file 300\n")
    assert free_memory.free_memory() == 800
