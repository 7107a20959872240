"""Active negatives against the formulae of their documentation, written down in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pretrain.methods.active import Active
from pretrain.methods.info_nce import info_nce


def vectors(queries: int = 6, rows: int = 40, dim: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, r = (
        F.normalize(torch.randn(n, dim, generator=generator, dtype=torch.float64), dim=1)
        for n in (queries, queries, rows)
    )
    return q.requires_grad_(), k, r


def softmax_by_hand(q: np.ndarray, k: np.ndarray, rows: np.ndarray, t: float) -> np.ndarray:
    """B x (1 + K), the positive first."""
    logits = np.concatenate([(q * k).sum(1, keepdims=True), q @ rows.T], axis=1) / t
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def test_top_rows_are_those_with_the_largest_expected_gradient() -> None:
    """The gradient of one row's term by finite arithmetic: its length, averaged over the queries, is the score."""
    q, k, rows = vectors()
    p = softmax_by_hand(q.detach().numpy(), k.numpy(), rows.numpy(), 0.2)
    lengths = np.linalg.norm(p[:, 1:, None] * rows.numpy() / 0.2, axis=2).mean(0)
    chosen = np.argsort(-lengths)[:10]
    kept = softmax_by_hand(q.detach().numpy(), k.numpy(), rows.numpy()[chosen], 0.2)
    slope = (kept[:, :1] * k.numpy() + kept[:, 1:] @ rows.numpy()[chosen] - k.numpy()) / (0.2 * len(q))
    loss = Active(10)(q, k, rows, 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(-np.log(kept[:, 0]).mean(), rel=1e-12)
    assert q.grad is not None
    np.testing.assert_allclose(q.grad.numpy(), slope, rtol=1e-11, atol=1e-14)
    assert np.linalg.norm(q.grad.numpy() - slope) <= 1e-12 * np.linalg.norm(slope)


def test_a_sample_is_weighted_by_its_probability() -> None:
    q, k, rows = vectors()
    torch.manual_seed(3)
    loss = Active(16, sampled=True)(q, k, rows, 0.2)
    loss.backward()
    torch.manual_seed(3)
    places = ((torch.arange(16) + torch.rand(16, dtype=torch.float64)) / 16).numpy()
    p = softmax_by_hand(q.detach().numpy(), k.numpy(), rows.numpy(), 0.2)
    expected = p[:, 1:].mean(0)
    drawn = np.searchsorted(np.cumsum(expected) / expected.sum(), places, side="right")
    weight = expected.sum() / (16 * expected[drawn])
    value = (-np.log(p[:, 0]) + (p[:, 1:][:, drawn] * weight).sum(1) + p[:, 0] - 1).mean()
    slope = ((p[:, 1:][:, drawn] * weight) @ rows.numpy()[drawn] + (p[:, :1] - 1) * k.numpy()) / (0.2 * len(q))
    assert loss.item() == pytest.approx(value, rel=1e-12)
    assert q.grad is not None
    assert np.linalg.norm(q.grad.numpy() - slope) <= 1e-12 * np.linalg.norm(slope)


def test_a_sample_keeps_loss_and_gradient_unbiased() -> None:
    """The mean of 4,000 samples of 8 of 40 rows is within four standard errors of the loss of the whole queue."""
    q, k, rows = vectors()
    whole = info_nce(q, k, rows, 0.2)
    (whole_gradient,) = torch.autograd.grad(whole, q)
    torch.manual_seed(0)
    losses, gradients = [], []
    for _ in range(4000):
        loss = Active(8, sampled=True)(q, k, rows, 0.2)
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, q)[0].flatten())
    found = torch.stack(gradients)
    error = found.std(0) / len(found) ** 0.5
    assert abs(np.mean(losses) - whole.item()) < 4 * np.std(losses) / len(losses) ** 0.5
    assert ((found.mean(0) - whole_gradient.flatten()).abs() < 5 * error + 1e-12).all()
    top = Active(8)(q, k, rows, 0.2).item()
    assert top < whole.item() - 0.1  # the top rows alone are another loss


def test_all_rows_are_the_whole_queue() -> None:
    q, k, rows = vectors()
    assert Active(40)(q, k, rows, 0.2).item() == pytest.approx(info_nce(q, k, rows, 0.2).item(), rel=1e-12)


@pytest.mark.parametrize("sampled", [False, True])
def test_rows_that_underflow_weigh_nothing(sampled: bool) -> None:
    """At a temperature of 0.003 most softmax weights are 0 in float32."""
    q, k, rows = (tensor.detach().float() for tensor in vectors())
    q.requires_grad_()
    loss = Active(39, sampled)(q, k, rows, 0.003)
    loss.backward()
    assert torch.isfinite(loss)
    assert q.grad is not None
    assert torch.isfinite(q.grad).all()
