"""Convolutions on maps of a few pixels, against torch's own in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import pretrain.encoders.small_maps
from pretrain.encoders import build_encoder
from pretrain.encoders.small_maps import SmallMapConv2d, multiply_on_small_maps


def autocast() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (2, 3), (4, 4), (5, 6)])
def test_sums_and_gradients_are_the_convolutions(size: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    small = nn.Sequential(nn.Conv2d(256, 24, 3, stride, padding=1, bias=False))
    exact = copy.deepcopy(small).double()
    multiply_on_small_maps(small)
    assert isinstance(small[0], SmallMapConv2d)
    x = torch.randn(5, 256, *size).bfloat16().requires_grad_()
    x_exact = x.detach().double().requires_grad_()
    with autocast():
        output = small(x)
    expected = exact(x_exact)
    gradient = torch.randn_like(output)
    output.backward(gradient)
    expected.backward(gradient.double())
    assert output.dtype == torch.bfloat16
    # not held to torch's bfloat16 convolution: its weight gradient is garbage for stride 2 on a 1x1 map (torch 2.14.1)
    of_weights = (small.get_parameter("0.weight").grad, exact.get_parameter("0.weight").grad)
    for ours, truth in ((output, expected), (x.grad, x_exact.grad), of_weights):
        assert ours is not None
        assert truth is not None
        # a rounding to 8 bits is 0.002; processors without bfloat16 round once more
        assert ((ours.double() - truth).norm() / truth.norm()).item() < 0.006


def test_the_product_is_taken_where_it_pays_only(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, ...]] = []
    patches = pretrain.encoders.small_maps._patches

    def watched(x: torch.Tensor, stride: int) -> torch.Tensor:
        taken.append(tuple(x.shape[1:]))
        return patches(x, stride)

    monkeypatch.setattr(pretrain.encoders.small_maps, "_patches", watched)
    encoder = build_encoder("resnet18", outputs=8)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        encoder(images)
        assert taken == []  # float32 keeps torch's numbers
        with autocast():
            encoder(images)
    # layer4 of 64-pixel images: 4x4 -> 2x2 pixels; all before it has larger maps
    assert taken == [(256, 4, 4), (512, 2, 2), (512, 2, 2), (512, 2, 2)]


def test_names_weights_and_initialisation_are_torchvisions() -> None:
    import torchvision

    torch.manual_seed(3)
    ours = build_encoder("resnet50", outputs=8)
    torch.manual_seed(3)
    theirs = torchvision.models.resnet50(num_classes=8)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_a_network_trains_through_it_as_through_the_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for largest in (pretrain.encoders.small_maps.LARGEST, 0):
        monkeypatch.setattr(pretrain.encoders.small_maps, "LARGEST", largest)
        torch.manual_seed(0)
        encoder = build_encoder("resnet18", outputs=8).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(encoder.parameters(), lr=0.05)
        images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 8
        for _ in range(4):
            with autocast():
                loss = nn.functional.cross_entropy(encoder(images).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    # losses of 2 to 0.3 in four steps of a high rate: by the third, roundings differ by 0.09 between processors
    assert losses[:4] == pytest.approx(losses[4:], rel=0.05, abs=0.15)
    assert losses[3] < losses[0]
