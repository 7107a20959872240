"""Negatives by cluster: the loss by hand in float64, the centroids by the recursion of their documentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pretrain.methods.clusters import ClusterMoCo, Clusters
from pretrain.methods.info_nce import info_nce

NONE = torch.empty(0)


def unit(n: int, dim: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


@pytest.mark.parametrize(("use", "inside", "outside"), [("drop", 0, 1), ("down", 0.25, 1), ("hard", 1, 0)])
def test_the_loss_weighs_rows_by_cluster(use: str, inside: float, outside: float) -> None:
    """5,000 rows: more than one chunk of the product."""
    q, k, rows = unit(5, 8, 0).requires_grad_(), unit(5, 8, 1), unit(5000, 8, 2)
    clusters = Clusters(7, 8, use=use, weight=0.25).double()
    clusters.start(rows)
    centroids = F.normalize(clusters.sums, dim=1).numpy()
    own, others = (k.numpy() @ centroids.T).argmax(1), (rows.numpy() @ centroids.T).argmax(1)
    weights = np.where(own[:, None] == others[None], inside, outside)
    exponentials = weights * np.exp(q.detach().numpy() @ rows.numpy().T / 0.2)
    positive = np.exp((q.detach().numpy() * k.numpy()).sum(1) / 0.2)
    total = positive + exponentials.sum(1)
    slope = ((exponentials @ rows.numpy() + positive[:, None] * k.numpy()) / total[:, None] - k.numpy()) / (0.2 * 5)
    loss = clusters(q, k, rows, 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(-np.log(positive / total).mean(), rel=1e-12)
    assert q.grad is not None
    assert np.linalg.norm(q.grad.numpy() - slope) <= 1e-12 * np.linalg.norm(slope)
    assert clusters.lowered(k, rows).numpy().tolist() == (weights < 1).tolist()


def test_a_query_without_negatives_has_no_loss_and_a_cold_softmax_is_finite() -> None:
    q, k, rows = unit(3, 4, 0).requires_grad_(), unit(3, 4, 1), unit(6, 4, 2)
    clusters = Clusters(2, 4, use="drop").double()
    clusters.sums.copy_(torch.stack([k.mean(0), -k.mean(0)]))
    rows = k.repeat(2, 1)  # all of them in the cluster of every key
    assert clusters.assign(k).tolist() == [0, 0, 0]
    loss = clusters(q, k, rows, 0.001)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert q.grad is not None
    assert q.grad.abs().max() < 1e-12


def test_centroids_are_momentum_means_of_their_keys() -> None:
    clusters = Clusters(3, 6, momentum=0.9).double()
    rows, keys = unit(20, 6, 3), unit(12, 6, 4)
    torch.manual_seed(0)
    clusters.start(rows)
    before = clusters.sums.clone()
    assert all(any(torch.equal(row, other) for other in rows) for row in before)
    own = (keys @ F.normalize(before, dim=1).T).argmax(1)
    refused = torch.tensor(True)
    clusters.update(keys, refused)
    assert torch.equal(clusters.sums, before)
    clusters.update(keys)
    for cluster in range(3):
        members = keys[own == cluster]
        expected = 0.9 * before[cluster] + 0.1 * 3 / 12 * members.sum(0)
        torch.testing.assert_close(clusters.sums[cluster], expected, rtol=1e-12, atol=1e-14)
        assert clusters.load[cluster].item() == pytest.approx(0.9 + 0.1 * 3 / 12 * len(members))


def test_an_unused_cluster_starts_anew_at_a_key() -> None:
    clusters = Clusters(2, 4, momentum=0.5).double()
    keys = F.normalize(torch.tensor([[1.0, 0, 0, 0], [1, 0.1, 0, 0]], dtype=torch.float64), dim=1)
    clusters.sums.copy_(torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0]]))
    for _ in range(4):
        clusters.update(keys)
    assert (F.normalize(clusters.sums, dim=1) @ keys[0] > 0.9).all()  # the far centroid has moved to the keys


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8))


def method(use: str = "drop", **settings: Any) -> ClusterMoCo:
    return ClusterMoCo(encoder(), Clusters(4, 8, use=use), queue_size=16, dim=8, temperature=0.2, **settings)


def test_online_clusters_find_the_groups_of_the_keys() -> None:
    """Four directions with noise: after a few steps every centroid is one of them, and pairs of a group are found."""
    directions = torch.eye(8)[:4]
    generator = torch.Generator().manual_seed(1)
    clusters = Clusters(4, 8, momentum=0.9)
    clusters.start(unit(16, 8, 5).float())
    for _ in range(150):
        group = torch.randint(4, (32,), generator=generator)
        keys = F.normalize(directions[group] + 0.1 * torch.randn(32, 8, generator=generator), dim=1)
        clusters.update(keys)
    own = clusters.assign(directions)
    assert sorted(own.tolist()) == [0, 1, 2, 3]
    assert (F.normalize(clusters.sums, dim=1)[own] * directions).sum(1).min() > 0.98


def test_the_report_counts_pairs_of_one_class() -> None:
    moco = method()
    moco.class_of = torch.tensor([0, 0, 1, 1])
    for _ in range(4):
        moco.begin_step()
        moco.loss([torch.randn(4, 3, 2, 2) for _ in range(2)], torch.arange(4), NONE)
        readings = moco.readings()
        moco.end_step()
        moco.step += 1
    assert moco.queue_images.tolist() == [0, 1, 2, 3] * 4
    assert readings["queue_same_class"] == pytest.approx(50.0)
    assert 0 < readings["dropped"] < 100
    q, k = moco._last or (NONE, NONE)
    same = moco.clusters.assign(k)[:, None] == moco.clusters.assign(moco.queue.rows)[None]
    assert same.shape == (4, 16)
    assert 0 <= readings["dropped_same_class"] <= 100


def test_before_the_start_it_is_plain_moco_and_a_state_round_trips() -> None:
    plain = method(warmup_steps=10)
    views = [torch.randn(4, 3, 2, 2) for _ in range(2)]
    plain.begin_step()
    loss = plain.loss(views, torch.arange(4), NONE)
    q, k = plain._last or (NONE, NONE)
    assert loss.item() == pytest.approx(info_nce(q, k, plain.queue.rows, 0.2).item())
    assert "dropped" not in plain.readings()
    plain.end_step()
    assert "cluster_sums" not in plain.export_extra()
    moco = method()
    moco(*views)  # a notebook's step: the images of the keys are not known
    assert (moco.queue_images == -1).all()
    state, extra = moco.export_state(), moco.export_extra()
    assert {name.split(".")[1] for name in state} == {"encoder_q", "encoder_k", "queue", "queue_ptr"}
    other = method()
    other.import_state(state)
    assert not other.started
    other.import_extra(extra)
    assert other.started
    torch.testing.assert_close(other.state_dict(), moco.state_dict(), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match=r"cluster_sums has the shape \[3, 8\], not \[4, 8\]"):
        other.import_extra({**extra, "cluster_sums": torch.zeros(3, 8)})


@pytest.mark.parametrize("use", ["drop", "down", "hard"])
def test_refused_step_leaves_everything_alone(use: str) -> None:
    moco = method(use)
    moco(*(torch.randn(4, 3, 2, 2) for _ in range(2)))
    before = {name: value.clone() for name, value in moco.state_dict().items() if "encoder" not in name}
    moco.begin_step()
    moco.loss([torch.randn(4, 3, 2, 2) for _ in range(2)], torch.arange(4), NONE)
    moco.end_step(torch.tensor(True))
    after = {name: value for name, value in moco.state_dict().items() if "encoder" not in name}
    torch.testing.assert_close(after, before, rtol=0, atol=0)
