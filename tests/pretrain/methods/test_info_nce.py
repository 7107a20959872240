"""InfoNCE and its relatives against the formulae of the papers, written out in full."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pretrain.methods import info_nce as contrast
from pretrain.methods.info_nce import info_nce, rank_accuracy
from pretrain.methods.negatives import MixedHard, Reweighted


def unit(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


def algorithm_1(q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor, temperature: float) -> torch.Tensor:
    """Algorithm 1 of 1911.05722: logits N x (1 + K), label 0."""
    l_pos = torch.bmm(q[:, None], k[:, :, None]).squeeze(2)
    logits = torch.cat([l_pos, q @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


@pytest.mark.parametrize("temperature", [0.01, 0.07, 0.2, 1.0])
@pytest.mark.parametrize("rows", [1, 8, 40])
def test_info_nce_equals_algorithm_1(monkeypatch: pytest.MonkeyPatch, temperature: float, rows: int) -> None:
    monkeypatch.setattr(contrast, "CHUNK", 8)  # several chunks, the last one shorter
    torch.manual_seed(rows)
    k, queue, raw = unit(5, 16), unit(rows, 16), torch.randn(5, 16)
    losses, slopes = [], []
    for loss_of in (info_nce, algorithm_1):
        leaf = raw.clone().requires_grad_()
        loss = loss_of(F.normalize(leaf, dim=1), k, queue, temperature)
        (3 * loss).backward()
        losses.append(loss.item())
        slopes.append(leaf.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5, abs=1e-6)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-5)


def test_info_nce_does_not_hold_the_queue() -> None:
    """The queue may be overwritten between forward and backward, as the loop's enqueue does."""
    torch.manual_seed(0)
    q, k, queue = unit(4, 8).requires_grad_(), unit(4, 8), unit(32, 8)
    expected = torch.autograd.grad(algorithm_1(q, k, queue, 0.2), q)[0]
    loss = info_nce(q, k, queue, 0.2)
    queue.zero_()
    loss.backward()
    torch.testing.assert_close(q.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("spread", [1.0, 0.1, 0.01])
def test_bf16_products_hold_for_features_that_hardly_differ(spread: float) -> None:
    """Features c + spread * noise: the part of the gradient that the normalisation lets through, against float64."""
    torch.manual_seed(0)
    centre = unit(128)
    q = F.normalize(centre + spread * unit(32, 128), dim=1)
    k = F.normalize(q + 0.3 * spread * unit(32, 128), dim=1)
    queue = F.normalize(centre + spread * unit(4096, 128), dim=1)
    slopes, losses = [], []
    cases: list[tuple[torch.dtype, dict[str, bool]]] = [(torch.float64, {}), (torch.float32, {"bf16": True})]
    for dtype, options in cases:
        leaf = q.to(dtype, copy=True).requires_grad_()
        loss = (info_nce if options else algorithm_1)(leaf, k.to(dtype), queue.to(dtype), 0.2, **options)
        loss.backward()
        assert leaf.grad is not None
        tangent = leaf.grad - (leaf.grad * leaf).sum(1, keepdim=True) * leaf
        slopes.append(tangent.detach().double())
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
    assert (slopes[1] - slopes[0]).norm() / slopes[0].norm() < 0.01


def test_accuracy_by_rank_equals_topk() -> None:
    torch.manual_seed(0)
    q, k, queue = unit(200, 8), unit(200, 8), unit(20, 8)
    k = F.normalize(k + q, dim=1)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1)
    top5 = logits.topk(5, dim=1).indices == 0
    expected = 100 * top5[:, 0].float().mean().item(), 100 * top5.any(1).float().mean().item()
    assert rank_accuracy(q, k, queue) == pytest.approx(expected)
    assert 5 < expected[0] < 95


@pytest.mark.parametrize(("class_prior", "beta"), [(0.0, 0.0), (0.1, 0.0), (0.01, 1.0), (0.1, 2.0)])
def test_reweighted_equals_the_published_expression(class_prior: float, beta: float) -> None:
    """2010.04592, equation 4 with its floor (beta = 0: 2007.00224), in float64 without logarithms, at t = 0.5."""
    torch.manual_seed(1)
    t, n = 0.5, 64
    q, k, rows = unit(6, 8, dtype=torch.float64), unit(6, 8, dtype=torch.float64), unit(n, 8, dtype=torch.float64)
    pos, neg = torch.exp((q * k).sum(1) / t), torch.exp(q @ rows.T / t)
    importance = neg**beta
    hard = (importance * neg).sum(1) / importance.mean(1)
    ng = ((-class_prior * n * pos + hard) / (1 - class_prior)).clamp(min=n * torch.e ** (-1 / t))
    expected = -torch.log(pos / (pos + ng)).mean().item()
    found = Reweighted(class_prior, beta)(q.float(), k.float(), rows.float(), t).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_reweighted_stays_finite_where_exponentials_do_not() -> None:
    """At t = 0.005, exp(1/t) is e^200: loss and gradient must be finite, and the floor must take over."""
    torch.manual_seed(2)
    q = unit(8, 8).requires_grad_()
    loss = Reweighted(0.5, 1.0)(q, q.detach(), unit(32, 8), 0.005)
    loss.backward()
    assert torch.isfinite(loss)
    assert q.grad is not None
    assert torch.isfinite(q.grad).all()


def test_debiased_without_prior_is_info_nce() -> None:
    torch.manual_seed(3)
    q, k, queue = unit(5, 8), unit(5, 8), unit(40, 8)
    assert Reweighted(0.0, 0.0)(q, k, queue, 0.2).item() == pytest.approx(info_nce(q, k, queue, 0.2).item(), rel=1e-5)


def test_mixed_negatives_only_make_the_task_harder(monkeypatch: pytest.MonkeyPatch) -> None:
    """MoCHi adds terms to the denominator; its mixtures are unit vectors from the query's own hardest rows."""
    torch.manual_seed(4)
    q, k, queue = unit(5, 16), unit(5, 16), unit(64, 16)
    loss = MixedHard(hardest=8, pairs=16, with_query=4)
    assert loss(q, k, queue, 0.2) > info_nce(q, k, queue, 0.2)
    hard = queue[(q @ queue.T).topk(8).indices]
    mixed = loss._mix_with_query(q, hard)
    torch.testing.assert_close(mixed.norm(dim=2), torch.ones(5, 4))
    # mixing in the query brings a negative nearer to it: at least as near as the farthest hard negative
    assert ((mixed * q[:, None]).sum(2).min(1).values >= (hard * q[:, None]).sum(2).min(1).values - 1e-6).all()
