"""Each method against its paper, on a linear encoder small enough to write the step down."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pretrain.encoders import build_encoder
from pretrain.methods import METHODS
from pretrain.methods.dictionaries import MemoryBank, Queue
from pretrain.methods.in_batch import EndToEnd, InvariantSpreading
from pretrain.methods.memory_bank import BankMethod
from pretrain.methods.moco import MoCo
from pretrain.methods.negatives import STRATEGIES
from pretrain.methods.row import ModelSettings, Sizes
from pretrain.methods.supervised import Supervised
from pretrain.settings.options import parse

NONE = torch.empty(0)


def linear_encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8))


def views(count: int = 2, batch: int = 4) -> list[torch.Tensor]:
    return [torch.randn(batch, 3, 2, 2) for _ in range(count)]


def test_moco_steps_as_algorithm_1() -> None:
    """Ten steps of SGD against the pseudo-code of 1911.05722: losses, both encoders, queue and pointer."""
    moco = MoCo(linear_encoder(), dim=8, queue_size=12, momentum=0.9, temperature=0.2)
    f_q, f_k = copy.deepcopy(moco.encoder_q), copy.deepcopy(moco.encoder_k)
    queue, pointer = moco.queue.rows.clone(), 0
    ours = torch.optim.SGD(moco.trained_parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    theirs = torch.optim.SGD(f_q.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(10):
        x_q, x_k = views()
        with torch.no_grad():  # equation 2, before the keys
            for p_q, p_k in zip(f_q.parameters(), f_k.parameters()):
                p_k.copy_(0.9 * p_k + 0.1 * p_q)
        q, k = F.normalize(f_q(x_q), dim=1), F.normalize(f_k(x_k), dim=1).detach()
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1) / 0.2
        expected = F.cross_entropy(logits, torch.zeros(4, dtype=torch.long))
        theirs.zero_grad()
        expected.backward()
        theirs.step()
        queue[pointer : pointer + 4] = k
        pointer = (pointer + 4) % 12

        loss = moco(x_q, x_k)
        ours.zero_grad()
        loss.backward()
        ours.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(moco.queue.rows, queue, rtol=1e-5, atol=1e-6)
    assert moco.queue.position == pointer == 4
    for mine, other in ((moco.encoder_q, f_q), (moco.encoder_k, f_k)):
        torch.testing.assert_close(mine.state_dict(), other.state_dict(), rtol=1e-5, atol=1e-6)


def test_the_ten_lines_of_the_documentation_train(repo: Path) -> None:
    code = (repo / "docs" / "pretrain.md").read_text().split("```python\n")[1].split("```")[0]
    scope = {"loader": [(torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32)) for _ in range(2)]}
    exec(code, scope)
    assert torch.isfinite(scope["loss"])  # type: ignore[arg-type]
    assert scope["moco"].queue.position == 16  # type: ignore[attr-defined]
    assert len(code.strip().splitlines()) <= 12


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_choice_of_negatives_can_be_called_in_a_notebook(name: str) -> None:
    """There the backward comes after the enqueue: its gradient must be that of the queue as the loss saw it."""
    score = STRATEGIES[name](
        hardest=4, pairs=4, with_query=2, class_prior=0.1, beta=1.0, active_rows=4, active_sampled=True
    )
    moco = MoCo(linear_encoder(), dim=8, queue_size=8, negatives=score)
    looped = copy.deepcopy(moco)
    x = views()
    torch.manual_seed(1)
    moco(*x).backward()
    torch.manual_seed(1)
    looped.begin_step()
    looped.loss(x, NONE, NONE).backward()
    looped.end_step()
    for ours, theirs in zip(moco.trained_parameters(), looped.trained_parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(moco.state_dict(), looped.state_dict())


def test_moco_checkpoint_has_the_official_names_and_layout() -> None:
    moco = MoCo(build_encoder("resnet18", outputs=16, mlp=True), dim=16, queue_size=24)
    state = moco.export_state()
    assert state["module.queue"].shape == (16, 24)
    torch.testing.assert_close(state["module.queue"].norm(dim=0), torch.ones(24))
    assert state["module.queue_ptr"].tolist() == [0]
    for encoder in ("encoder_q", "encoder_k"):
        assert f"module.{encoder}.layer4.1.bn2.running_var" in state
        assert f"module.{encoder}.fc.2.bias" in state
    assert all(key.split(".")[1] in ("encoder_q", "encoder_k", "queue", "queue_ptr") for key in state)
    other = MoCo(build_encoder("resnet18", outputs=16, mlp=True), dim=16, queue_size=24)
    other.import_state(state)
    torch.testing.assert_close(other.export_state(), state, rtol=0, atol=0)


def test_key_encoder_keeps_its_own_batchnorm_statistics() -> None:
    moco = MoCo(build_encoder("resnet18", outputs=8), dim=8, queue_size=8)
    moco(torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32) + 5)
    q, k = (encoder.get_buffer("bn1.running_mean") for encoder in (moco.encoder_q, moco.encoder_k))
    assert not torch.equal(q, k)
    assert moco.encoder_k.get_submodule("bn1").training
    assert not any(p.requires_grad for p in moco.encoder_k.parameters())


def test_queue_goes_round_from_any_position() -> None:
    """A run resumed with another batch: 4 keys written from row 6 of 8 fill rows 6, 7, 0, 1."""
    queue = Queue(8, 2)
    queue.position.fill_(6)
    before, keys = queue.rows.clone(), torch.arange(8.0).view(4, 2)
    queue.push(keys)
    assert torch.equal(queue.rows, torch.cat([keys[2:], before[2:6], keys[:2]]))
    assert queue.position == 2
    queue.push(torch.ones(8, 2))
    assert torch.equal(queue.rows, torch.ones(8, 2))
    assert queue.position == 2


def test_symmetric_loss_is_both_directions_and_enqueues_both() -> None:
    a, b = views()
    both = MoCo(linear_encoder(), dim=8, queue_size=16, symmetric=True)
    losses = []
    for pair in ((a, b), (b, a)):
        one = MoCo(linear_encoder(), dim=8, queue_size=16)
        one.queue.rows.copy_(both.queue.rows)
        losses.append(one(*pair).item())
    assert both(a, b).item() == pytest.approx(sum(losses), rel=1e-6)
    assert both.queue.position == 8


def test_refused_step_leaves_the_queue_alone() -> None:
    moco = MoCo(linear_encoder(), dim=8, queue_size=8)
    before = moco.queue.rows.clone()
    moco.begin_step()
    moco.loss(views(), NONE, NONE).backward()
    moco.begin_step()  # the loop went on without end_step
    assert torch.equal(moco.queue.rows, before)
    moco.loss(views(), NONE, NONE)
    moco.end_step()
    assert moco.queue.position == 4


def test_memory_bank_nce_equals_the_paper() -> None:
    """1805.01978 equations 4 to 7 with Z estimated on the first batch only; v <- m v + (1 - m) f, normalised."""
    bank = BankMethod(linear_encoder(), images=20, dim=8, negatives=6, temperature=0.1, form="nce", momentum=0.5)
    indices, normaliser = torch.tensor([3, 7, 11, 2]), None
    for step in range(3):
        x, rows_before = views(1), bank.memory.rows.clone()
        torch.manual_seed(step)
        loss = bank.loss(x, indices, NONE)
        torch.manual_seed(step)
        drawn = rows_before[torch.randint(20, (6,))]
        f = F.normalize(bank.encoder_q(x[0]), dim=1)
        pos, neg = torch.exp((f * rows_before[indices]).sum(1) / 0.1), torch.exp(f @ drawn.T / 0.1)
        if normaliser is None:
            normaliser = 20 * torch.cat([pos[:, None], neg], 1).mean().item()
        h = lambda p: p / (p + 6 / 20)  # noqa: E731
        expected = -(torch.log(h(pos / normaliser)) + torch.log(1 - h(neg / normaliser)).sum(1)).mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        assert torch.equal(bank.memory.rows, rows_before)  # the bank waits for the end of the step
        bank.end_step()
        moved = F.normalize(0.5 * rows_before[indices] + 0.5 * f, dim=1)
        torch.testing.assert_close(bank.memory.rows[indices], moved)


def test_memory_bank_softmax_is_over_all_images() -> None:
    bank = BankMethod(linear_encoder(), images=10, dim=8, temperature=0.1, form="softmax")
    x, indices = views(1), torch.tensor([0, 9, 4, 1])
    f = F.normalize(bank.encoder_q(x[0]), dim=1)
    expected = -(f @ bank.memory.rows.T / 0.1).log_softmax(1)[torch.arange(4), indices].mean()
    assert bank.loss(x, indices, NONE).item() == pytest.approx(expected.item(), rel=1e-5)


def test_end_to_end_contrasts_the_batch_and_trains_both_encoders() -> None:
    method = EndToEnd(linear_encoder(), temperature=0.2)
    x = views()
    q, k = (F.normalize(e(v), dim=1) for e, v in zip((method.encoder_q, method.encoder_k), x))
    expected = -(q @ k.T / 0.2).log_softmax(1).diagonal().mean()
    loss = method.loss(x, NONE, NONE)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())
    assert len(list(EndToEnd(linear_encoder(), share=True).trained_parameters())) == 2


def test_invariant_spreading_equals_the_paper() -> None:
    """1904.03436: -log P(i | x^_i) - sum over j != i of log(1 - P(i | x_j)), image by image."""
    method = InvariantSpreading(linear_encoder(), temperature=0.1)
    x = views()
    f, g = (F.normalize(method.encoder_q(v), dim=1) for v in x)
    total = 0.0
    for i in range(4):
        total -= torch.log_softmax(g[i] @ f.T / 0.1, 0)[i].item()
        for j in range(4):
            if j != i:
                total -= torch.log(1 - torch.softmax(f[j] @ f.T / 0.1, 0)[i]).item()
    assert method.loss(x, NONE, NONE).item() == pytest.approx(total / 4, rel=1e-4)


def test_supervised_is_cross_entropy_and_saves_torchvisions_names() -> None:
    method = Supervised(build_encoder("resnet18", outputs=5))
    x, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 4, 2, 2])
    loss = method.loss([x], NONE, labels)
    torch.testing.assert_close(loss, F.cross_entropy(method.encoder_q(x), labels))
    state = method.export_state()
    assert {"module.conv1.weight", "module.fc.bias", "module.layer1.0.bn1.running_mean"} <= state.keys()
    method.import_state(state)


class Constant(nn.Module):
    """An encoder to which all images look alike."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.feature = nn.Parameter(torch.ones(outputs))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.feature.expand(len(images), -1)


@pytest.mark.parametrize("flags", [
    *(["--negatives", name, "--mochi-hardest", "4", "--mochi-warmup", "0"] for name in STRATEGIES),
    ["--negatives", "active", "--active-rows", "5"],
    ["--negatives", "active", "--active-rows", "5", "--active-draw", "sampled"],
    ["--symmetric"],
    ["--method", "memory_bank"],
    ["--method", "instdisc"],
    ["--method", "instdisc", "--instdisc-form", "softmax"],
    ["--method", "end_to_end"],
    ["--method", "invaspread"],
    ["--method", "invaspread", "--accumulate", "2"],
], ids=" ".join)  # fmt: skip
def test_chance_is_the_loss_of_an_encoder_that_sees_nothing(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelSettings, "encoder", lambda self, outputs: Constant(outputs))
    settings = parse(["DIR", "--moco-dim", "16", "--moco-k", "24", *flags])
    parts = settings.optimisation.accumulate
    method = settings.build_method(Sizes(32, 4, 8, 1, parts))
    for dictionary in (m for m in method.modules() if isinstance(m, Queue | MemoryBank)):
        dictionary.rows.fill_(1 / 4)
    part = 8 // parts
    views = [torch.zeros(part, 3, 2, 2)] * settings.row.crops
    assert method.loss(views, torch.arange(part), NONE).item() == pytest.approx(method.chance, rel=1e-4)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_row_of_the_table_learns_its_pretext_task(name: str) -> None:
    """Eight images, a few steps: the loss falls below where it began, and the state survives a round trip."""
    torch.manual_seed(0)
    small = ["-a", "resnet18", "--moco-dim", "16", "--moco-k", "16", "--moco-m", "0.9"]
    method = parse(["DIR", "--method", name, *small]).build_method(Sizes(8, 4, 8, 1)).train()
    images, indices, labels = torch.randn(8, 3, 32, 32), torch.arange(8), torch.arange(8) % 4
    optimizer = torch.optim.SGD(method.trained_parameters(), 0.03, momentum=0.9)
    losses = []
    for _ in range(14):
        method.begin_step()
        crops = [images + 0.05 * torch.randn_like(images) for _ in range(METHODS[name].crops)]
        loss = method.loss(crops, indices, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        readings = method.readings()
        method.end_step()
        losses.append(loss.item())
    # dictionaries start random, and far from the batch: what counts is the loss once they hold real keys
    assert min(losses[-3:]) < max(losses[:6])
    assert 0 <= readings["acc1"] <= readings["acc5"] <= 100
    method.import_state(method.export_state())
