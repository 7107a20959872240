"""A ViT's patch embedding for patches of another size: FlexiViT's definition, timm's function, and the detector."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional as F

from convert.conversion import convert
from convert.patch_size import resample_patches
from convert.sidecar import sidecar
from runtime.errors import UserError
from tests.convert.detector_features import difference
from tests.convert.makers import MAKERS
from tests.convert.networks import random_tensors

PATCHES = "patch_embed.proj.weight"


def resized(patches: torch.Tensor, size: int) -> torch.Tensor:
    return F.interpolate(patches, (size, size), mode="bicubic", antialias=True)


@pytest.mark.parametrize(("old", "new"), [(14, 16), (16, 32), (8, 14)])
def test_a_larger_patch_gets_the_response_of_the_original(old: int, new: int) -> None:
    """Equation 3 of FlexiViT: <x, w> = <B x, w'> for every x."""
    weight = np.random.default_rng(0).standard_normal((4, 3, old, old))
    patches = torch.randn(6, 3, old, old, dtype=torch.float64)
    before = torch.einsum("nchw,ochw->no", patches, torch.from_numpy(weight))
    after = torch.einsum("nchw,ochw->no", resized(patches, new), torch.from_numpy(resample_patches(weight, new)))
    assert float((before - after).abs().max()) < 1e-9


@pytest.mark.parametrize(("old", "new"), [(14, 16), (16, 8), (14, 14), (32, 16)])
def test_the_weight_is_timms(old: int, new: int) -> None:
    embedding = pytest.importorskip("timm.layers.patch_embed")
    weight = np.random.default_rng(1).standard_normal((5, 3, old, old)).astype(np.float32)
    theirs = embedding.resample_patch_embed(torch.from_numpy(weight), [new, new])
    ours = resample_patches(weight, new)
    assert ours.dtype == weight.dtype
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-4)  # timm's inverse is float32's


@pytest.mark.parametrize("name", ["timm DINOv2", "timm DINOv2 with registers"])
def test_dinov2_enters_a_detector_with_patches_of_16_pixels(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    maker = MAKERS[name]
    torch.save(maker.build().state_dict(), tmp_path / "x.pth")
    backbone = convert(tmp_path / "x.pth", heads=maker.heads, patch_size=16)
    assert backbone.architecture.name == maker.name.replace("_14", "_16")
    assert (backbone.config["MODEL.VIT.PATCH_SIZE"], backbone.config["MODEL.VIT.PRETRAIN_IMG_SIZE"]) == (16, 80)
    assert backbone.max_abs_diff is not None
    assert set(backbone.max_abs_diff.values()) == {0.0}
    (note,) = [note for note in sidecar(backbone, {})["notes"] if note.startswith("patch embedding: resampled")]
    assert "from 14 to 16 pixels" in note
    # the same network with patches of 16 pixels and this embedding, all else as in the file
    model = "vit_small_patch14_reg4_dinov2" if "registers" in name else "vit_small_patch14_dinov2"
    sizes = {"img_size": 80, "patch_size": 16, "embed_dim": 64, "depth": 3, "num_heads": 2}
    network = timm.create_model(model, num_classes=3, **sizes)
    state = torch.load(tmp_path / "x.pth")
    state[PATCHES] = torch.from_numpy(resample_patches(state[PATCHES].numpy(), 16))
    network.load_state_dict(state)
    assert difference(dataclasses.replace(maker, side=80), network.eval(), backbone) == 0.0


def test_the_size_it_has_changes_nothing(tmp_path: Path) -> None:
    torch.save(random_tensors("timm-vit"), tmp_path / "x.pth")
    plain, asked = (convert(tmp_path / "x.pth", patch_size=size) for size in (None, 16))
    assert plain.notes == asked.notes
    assert all(np.array_equal(plain.tensors[name], asked.tensors[name]) for name in plain.tensors)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("timm-vit", 0, "--patch-size 0 is not a size of patches: give 1 to 64 pixels"),
        ("timm-vit", 100_000, "--patch-size 100000 is not a size of patches"),
        ("resnet18", 16, "it holds a ResNet, which has no patches: leave out --patch-size"),
        ("timm-swin", 16, "--patch-size is for plain ViTs; this is a swin: leave it out"),
    ],
)
def test_refusals(name: str, size: int, message: str, tmp_path: Path) -> None:
    tensors = torchvision.models.resnet18().state_dict() if name == "resnet18" else random_tensors(name)
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "x.pth", patch_size=size)


def test_the_command_writes_it(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    torch.save(random_tensors("timm-vit"), tmp_path / "x.pth")
    done = run_cli(["convert/to_d2.py", tmp_path / "x.pth", "--patch-size", "8"], check=0)
    assert "from 16 to 8 pixels by the pseudo-inverse of a bicubic resize (FlexiViT); an approximation" in done.stdout
    assert "MODEL.VIT.PATCH_SIZE 8" in done.stdout
