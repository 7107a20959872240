"""SplitBatchNorm and the shuffle: what a key's batch statistics see."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.encoders import SplitBatchNorm2d, build_encoder, pooled_features
from pretrain.methods.exchange import BatchShuffle


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_split_batchnorm_is_one_batchnorm_per_part(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    split = SplitBatchNorm2d(6, num_splits=4)
    parts = [nn.BatchNorm2d(6) for _ in range(4)]
    x = (torch.randn(8, 6, 5, 5) * 3 + torch.randn(8, 1, 1, 1)).to(memory_format=layout)
    expected = torch.cat([bn(part) for bn, part in zip(parts, x.chunk(4))])
    torch.testing.assert_close(split(x), expected)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([bn.get_buffer(name) for bn in parts]).mean(0)
        torch.testing.assert_close(split.get_buffer(name), mean)
    assert split.num_batches_tracked == 1
    split.eval()
    plain = nn.BatchNorm2d(6)
    plain.load_state_dict(split.state_dict())  # the same names: the official code reads it
    torch.testing.assert_close(split(x), plain.eval()(x))


def test_split_batchnorm_keeps_channels_last() -> None:
    y = SplitBatchNorm2d(8, num_splits=2)(torch.randn(4, 8, 6, 6).to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_batch_that_does_not_split_is_refused() -> None:
    with pytest.raises(ValueError, match="6 cannot be split into 4"):
        SplitBatchNorm2d(3, num_splits=4)(torch.randn(6, 3, 2, 2))


def test_shuffle_is_undone_and_changes_the_company_of_a_key() -> None:
    """The statistics a key sees are those of a random part of the batch, another one at each step, never always the
    part its query was in; with one group nothing would change, so nothing is done."""
    torch.manual_seed(0)
    images = torch.arange(16.0).view(16, 1, 1, 1)
    assert BatchShuffle(16, 1).order is None
    company = []
    for _ in range(400):
        order = BatchShuffle(16, 4)
        shuffled = order.shuffle(images)
        assert torch.equal(order.gather(shuffled), images)
        group = next(part for part in shuffled.flatten().chunk(4) if 0.0 in part)
        company.append(group[group != 0].tolist())
    counts = torch.bincount(torch.tensor(company).long().flatten(), minlength=16)[1:]
    # each of the 15 others is expected 3 / 15 of the time: 80 of 400, std 8
    assert counts.min() > 48
    assert counts.max() < 112


def test_shuffle_keeps_channels_last() -> None:
    images = torch.randn(4, 3, 6, 6).to(memory_format=torch.channels_last)
    assert BatchShuffle(4, 2).shuffle(images).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_encoder_is_torchvisions_with_another_head(arch: str) -> None:
    encoder = build_encoder(arch, outputs=16, mlp=True, bn_splits=2)
    from torchvision.models import get_model

    reference = get_model(arch, weights=None)
    body = {k: v.shape for k, v in encoder.state_dict().items() if not k.startswith("fc.")}
    assert body == {k: v.shape for k, v in reference.state_dict().items() if not k.startswith("fc.")}
    width = reference.fc.in_features
    assert [tuple(encoder.fc[i].weight.shape) for i in (0, 2)] == [(width, width), (16, width)]
    reference.fc = nn.Identity()
    reference.load_state_dict(encoder.state_dict(), strict=False)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(pooled_features(encoder.eval(), x), reference.eval()(x))


def test_cifar_stem_keeps_the_resolution() -> None:
    encoder = build_encoder("resnet18", outputs=8, stem="cifar")
    x = encoder.maxpool(encoder.relu(encoder.bn1(encoder.conv1(torch.randn(2, 3, 32, 32)))))
    assert x.shape == (2, 64, 32, 32)
