"""PCL against 2005.04966 in float64, and its E-step against scikit-learn."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pretrain.encoders import build_encoder
from pretrain.methods.pcl import ITERATIONS, Pcl, Prototypes, concentrations, k_means

NONE = torch.empty(0)


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8))


def pcl(**settings: object) -> Pcl:
    defaults: dict = {"images": 30, "clusters": (3, 5), "steps_per_epoch": 4, "dim": 8, "queue_size": 16}
    return Pcl(encoder(), temperature=0.2, **{**defaults, **settings})


def features(n: int = 300, dim: int = 6) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(8, dim))[rng.integers(8, size=n)] + 0.3 * rng.normal(size=(n, dim))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_k_means_is_that_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.cluster")
    rows = features()
    start = rows[np.random.default_rng(1).choice(len(rows), 12, replace=False)]
    centres, assigned = k_means(rows, start)
    theirs = sklearn.KMeans(12, init=start, n_init=1, max_iter=ITERATIONS, tol=0, algorithm="lloyd").fit(rows)
    np.testing.assert_allclose(centres, theirs.cluster_centers_, rtol=1e-12, atol=1e-12)
    assert assigned.tolist() == theirs.labels_.tolist()


def test_a_centre_without_images_stays() -> None:
    rows = features(20)
    centres, assigned = k_means(rows, np.concatenate([rows[:3], np.full((1, 6), 9.0)]))
    assert 3 not in assigned
    np.testing.assert_array_equal(centres[3], np.full(6, 9.0))


def test_concentration_is_equation_12_and_its_scaling() -> None:
    rows = features()
    centres, assigned = k_means(rows, rows[:12])
    assigned[assigned == 11] = 10
    assigned[0] = 11  # one image alone: it gets the largest
    phi = np.zeros(12)
    for cluster in range(12):
        members = rows[assigned == cluster]
        if len(members) > 1:
            distances = [math.dist(member, centres[cluster]) for member in members]
            phi[cluster] = sum(distances) / (len(members) * math.log(len(members) + 10))
    phi[11] = phi.max()
    phi = phi.clip(np.percentile(phi, 10), np.percentile(phi, 90))
    found = concentrations(rows, centres, assigned, 0.2)
    np.testing.assert_allclose(found, 0.2 * phi / phi.mean(), rtol=1e-12)
    assert found.mean() == pytest.approx(0.2)
    same = np.ones((5, 4)) / 2
    np.testing.assert_array_equal(concentrations(same, same[:2], np.zeros(5, np.int64), 0.2), [0.2, 0.2])


@pytest.mark.parametrize("others", [100, 3])
def test_the_loss_is_proto_nce(others: int) -> None:
    """Equation 11 for two granularities, image by image; 3 of 4 other prototypes are drawn in the finer one."""
    method = pcl(others=others).double()
    rng = np.random.default_rng(0)
    method.prototypes = [
        Prototypes(
            F.normalize(torch.from_numpy(rng.normal(size=(count, 8))), dim=1),
            torch.from_numpy(rng.integers(count, size=30)),
            torch.from_numpy(rng.uniform(0.1, 0.3, count)),
        )
        for count in (3, 5)
    ]
    indices = torch.tensor([4, 9, 9, 29])
    q = F.normalize(torch.from_numpy(rng.normal(size=(4, 8))), dim=1).requires_grad_()
    k = F.normalize(torch.from_numpy(rng.normal(size=(4, 8))), dim=1)
    torch.manual_seed(5)
    loss = method.score(q, k, indices)
    loss.backward()
    torch.manual_seed(5)
    twin = q.detach().clone().requires_grad_()
    logits = torch.cat([(twin * k).sum(1, keepdim=True), twin @ method.queue.rows.T], 1) / 0.2
    expected = -logits.log_softmax(1)[:, 0].mean()
    for prototypes in method.prototypes:
        count = len(prototypes.centres)
        chosen = torch.randperm(count)[:others].tolist() if count > others + 1 else range(count)
        total = torch.zeros((), dtype=torch.float64)
        for row, image in zip(twin, indices.tolist()):
            own = int(prototypes.assigned[image])
            terms = {j: torch.exp(row @ prototypes.centres[j] / prototypes.concentration[j]) for j in {own, *chosen}}
            total = total - torch.log(terms[own] / torch.stack(list(terms.values())).sum())
        expected = expected + total / 4 / 2
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert q.grad is not None
    assert twin.grad is not None
    assert (q.grad - twin.grad).norm() <= 1e-12 * twin.grad.norm()


def test_the_e_step_comes_before_each_epoch_after_the_warm_up() -> None:
    method = pcl(warmup_steps=4)
    asked = []
    for step in range(12):
        method.step = step
        if method.wants_features():
            asked.append(step)
            method.learn_features(features(30, 8).astype(np.float32), seed=step)
    assert asked == [4, 8]
    assert [p.centres.shape for p in method.prototypes] == [(3, 8), (5, 8)]
    torch.testing.assert_close(method.prototypes[1].centres.norm(dim=1), torch.ones(5))
    again = copy.deepcopy(method)
    again.learn_features(features(30, 8).astype(np.float32), seed=8)
    torch.testing.assert_close(again.export_extra(), method.export_extra(), rtol=0, atol=0)


def test_state_is_the_official_one_and_the_clusters_are_beside_it() -> None:
    method = Pcl(build_encoder("resnet18", outputs=8, mlp=True), images=30, clusters=(3,), steps_per_epoch=4, dim=8,
                 queue_size=16)  # fmt: skip
    method.learn_features(features(30, 8).astype(np.float32), seed=0)
    state, extra = method.export_state(), method.export_extra()
    assert {key.split(".")[1] for key in state} == {"encoder_q", "encoder_k", "queue", "queue_ptr"}
    other = Pcl(build_encoder("resnet18", outputs=8, mlp=True), images=30, clusters=(3,), steps_per_epoch=4, dim=8,
                queue_size=16)  # fmt: skip
    other.import_state(state)
    assert other.prototypes == []
    other.step = 1
    assert other.wants_features()  # resumed from an official file in the middle of an epoch
    other.import_extra(extra)
    assert not other.wants_features()
    torch.testing.assert_close(other.export_extra(), extra, rtol=0, atol=0)
    other.import_state(state)
    other.import_extra(
        {**extra, "centres_0": torch.zeros(4, 8)}
    )  # of another --num-cluster: the next E-step makes them
    assert other.prototypes == []


def test_chance_is_the_loss_of_features_that_are_all_alike() -> None:
    method = pcl()
    row = torch.ones(4, 8) / 8**0.5
    method.queue.rows.fill_(1 / 8**0.5)
    method.prototypes = [Prototypes(row[:1].repeat(k, 1), torch.arange(30) % k, torch.full((k,), 0.2)) for k in (3, 5)]
    assert method.score(row, row, torch.arange(4)).item() == pytest.approx(method.chance, rel=1e-5)
