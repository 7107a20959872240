"""RoIAlign of our own against torchvision's: the same bits, forward and backward, in any number of threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision.ops

from transfer.engines.torchvision.model import roi_align as module
from transfer.engines.torchvision.model.roi_align import kernels, roi_align

REPOSITORY = Path(__file__).resolve().parents[5]


@pytest.fixture
def compiled() -> None:
    pytest.importorskip("numba", reason="numba (the extra `fast`) is not installed")
    if kernels() is None:
        pytest.skip("this build of torchvision rounds differently from the compiled loops")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def draw(channels: int, regions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two maps of 25 x 38 and regions at stride 4: inside, across the border, outside, empty, turned inside out."""
    generator = torch.Generator().manual_seed(channels)
    features = torch.randn(2, channels, 25, 38, generator=generator)
    start = torch.rand(regions, 2, generator=generator) * 200 - 40
    extent = torch.rand(regions, 2, generator=generator) * 160
    extent[::7] = 0
    extent[1::11] *= -0.1
    image = torch.arange(float(regions))[:, None] % 2
    return features, torch.cat([image, start, start + extent], 1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("side", "ratio"), [(7, 0), (14, 0), (7, 2), (1, 1)])
@pytest.mark.parametrize(("channels", "count"), [(3, 1), (64, 1), (50, 3), (256, 16)])
def test_bits_are_torchvisions(
    compiled: None, threads: None, channels: int, count: int, side: int, ratio: int, aligned: bool
) -> None:
    features, rois = draw(channels, 90)
    torch.set_num_threads(count)
    ours, theirs = (features.clone().requires_grad_() for _ in range(2))
    pooled = roi_align(ours, rois, side, 0.25, ratio, aligned=aligned)
    expected = torchvision.ops.roi_align(theirs, rois, (side, side), 0.25, ratio, aligned)
    assert torch.equal(pooled, expected)
    weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1))
    pooled.backward(weights)
    expected.backward(weights)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)
    assert ours.grad.is_contiguous(), "the layout decides how the next convolution sums"


def test_channels_last_features_and_a_strided_gradient_give_the_same_bits(compiled: None) -> None:
    features, rois = draw(32, 20)
    expected = torchvision.ops.roi_align(features, rois, (7, 7), 0.25, 0, True)
    leaf = features.contiguous(memory_format=torch.channels_last).requires_grad_()
    pooled = roi_align(leaf, rois, 7, 0.25, 0, aligned=True)
    assert torch.equal(pooled, expected)
    leaf_of_theirs = features.clone().requires_grad_()
    torchvision.ops.roi_align(leaf_of_theirs, rois, (7, 7), 0.25, 0, True).sum().backward()
    pooled.sum().backward()  # a gradient of one element, expanded
    assert leaf.grad is not None
    assert leaf_of_theirs.grad is not None
    assert torch.equal(leaf.grad, leaf_of_theirs.grad)


def test_no_regions(compiled: None) -> None:
    features, rois = draw(16, 0)
    pooled = roi_align(features.requires_grad_(), rois, 7, 0.25, 0, aligned=True)
    assert pooled.shape == (0, 16, 7, 7)
    pooled.sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_a_second_derivative_is_refused_rather_than_wrong(compiled: None) -> None:
    features, rois = draw(16, 5)
    pooled = roi_align(features.requires_grad_(), rois, 7, 0.25, 0, aligned=True)
    (gradient,) = torch.autograd.grad(pooled.square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_other_types_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_pool", None)  # whoever called it would fail
    features, rois = draw(8, 10)
    pooled = roi_align(features.double(), rois.double(), 7, 0.25, 0, aligned=True)
    assert torch.equal(pooled, torchvision.ops.roi_align(features.double(), rois.double(), (7, 7), 0.25, 0, True))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(module, "log", SimpleNamespace(info=lambda line, *values: lines.append(line % values)))
    return lines


@pytest.fixture
def asked_again() -> Iterator[None]:
    kernels.cache_clear()
    yield
    kernels.cache_clear()


def test_loops_that_round_otherwise_are_not_used(
    compiled: None, asked_again: None, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    from transfer.engines.torchvision.model import roi_align_kernels

    def fused(*arguments: Any) -> None:
        true_pool(*arguments)
        arguments[-1][...] *= 1 + 2**-23

    true_pool = roi_align_kernels.pool
    monkeypatch.setattr(roi_align_kernels, "pool", fused)
    assert kernels() is None
    assert "rounds differently" in said[0]
    features, rois = draw(8, 10)
    pooled = roi_align(features, rois, 7, 0.25, 0, aligned=True)
    assert torch.equal(pooled, torchvision.ops.roi_align(features, rois, (7, 7), 0.25, 0, True))


def test_without_numba_torchvision_pools(asked_again: None, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "transfer.engines.torchvision.model.roi_align_kernels", raising=False)
    monkeypatch.delattr("transfer.engines.torchvision.model.roi_align_kernels", raising=False)
    assert kernels() is None
    assert kernels() is None
    assert len(said) == 1
    assert "pip install numba" in said[0]
    features, rois = draw(8, 10)
    pooled = roi_align(features, rois, 7, 0.25, 0, aligned=True)
    assert torch.equal(pooled, torchvision.ops.roi_align(features, rois, (7, 7), 0.25, 0, True))


def test_without_a_place_for_compiled_code_it_is_compiled_anew(compiled: None, tmp_path: Path) -> None:
    folder = tmp_path / "transfer/engines/torchvision/model"
    folder.mkdir(parents=True)
    for package in (folder, *folder.parents[:3]):
        (package / "__init__.py").touch()
    for name in ("roi_align.py", "roi_align_kernels.py"):
        shutil.copy(REPOSITORY / "transfer/engines/torchvision/model" / name, folder)
    (folder / "__pycache__").touch()  # no folder can be made here, whoever asks
    places = {"XDG_CACHE_HOME": str(folder / "__pycache__"), "HOME": str(folder / "__pycache__")}
    program = "from transfer.engines.torchvision.model.roi_align import kernels; print(kernels().pool.stats.cache_path)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, **places, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "None"
