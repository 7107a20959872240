"""The guard of each step, the warnings about runs that learn nothing, and checkpoint folders."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch

from pretrain.training.checkpoint_checks import weights_sha256
from pretrain.training.checkpoints import CheckpointFolder
from pretrain.training.optimiser import SkippableSGD
from pretrain.training.step_guard import BatchStatistics, StepGuard
from pretrain.training.warnings_of_failure import HealthWatch
from runtime.errors import UserError


def parameter(gradient: float) -> torch.nn.Parameter:
    p = torch.nn.Parameter(torch.zeros(3))
    p.grad = torch.tensor([0.0, gradient, 1.0])
    return p


@pytest.mark.parametrize(("loss", "gradient", "what"), [
    (math.nan, 0.0, "loss"), (math.inf, 0.0, "loss"), (1.0, math.nan, "gradient"), (1.0, -math.inf, "gradient"),
])  # fmt: skip
def test_guard_names_step_images_and_cause(tmp_path: Path, loss: float, gradient: float, what: str) -> None:
    guard = StepGuard(tmp_path)
    assert guard.judge(torch.tensor(loss), [parameter(gradient)], 7, torch.tensor([3, 5]))
    with pytest.raises(UserError, match=f"the {what} of step 7 is not finite .images 3, 5;"):
        guard.read()
    record = json.loads((tmp_path / "nonfinite_step_7.json").read_text())
    assert (record["what"], record["images"]) == (what, [3, 5])


def test_guard_tolerates_so_many_in_a_row(tmp_path: Path) -> None:
    guard, bad, good = StepGuard(tmp_path, 2), torch.tensor(math.nan), torch.tensor(1.0)
    images = torch.arange(2)
    for step, loss in enumerate([bad, bad, good, bad, bad, bad]):
        assert bool(guard.judge(loss, [parameter(0.0)], step, images)) is (loss is bad)
        guard.read(late=1)
    with pytest.raises(UserError, match="of step 5"):
        guard.read()
    assert sorted(f.name[-6] for f in tmp_path.iterdir()) == ["0", "1", "3", "4", "5"]


def test_verdicts_are_read_as_late_as_asked(tmp_path: Path) -> None:
    guard = StepGuard(tmp_path)
    guard.judge(torch.tensor(math.nan), [parameter(0.0)], 0, torch.arange(2), stopping=True)
    guard.read(late=1)
    assert not guard.stop_agreed
    guard.judge(torch.tensor(1.0), [parameter(0.0)], 1, torch.arange(2))
    with pytest.raises(UserError, match="of step 0"):
        guard.read(late=1)
    assert guard.stop_agreed


def test_large_finite_gradients_pass(tmp_path: Path) -> None:
    """A sum of norms that overflows float32 would be refused; a single large gradient is not."""
    assert not StepGuard(tmp_path).judge(torch.tensor(1.0), [parameter(1e15)], 0, torch.arange(1))


def optimisers(momentum: float) -> tuple[SkippableSGD, torch.optim.SGD, list[torch.nn.Parameter]]:
    """Ours and torch's over equal weights, which are returned: ours, then torch's."""
    torch.manual_seed(0)
    shapes = [(4, 3, 3, 3), (7,), (5, 4, 1, 1)]
    weights = [torch.randn(shape) for shape in shapes] * 2
    parameters = [torch.nn.Parameter(_channels_last(w)) for w in weights]
    ours = SkippableSGD(parameters[:3], 0.1, momentum=momentum, weight_decay=1e-2)
    return ours, torch.optim.SGD(parameters[3:], 0.1, momentum=momentum, weight_decay=1e-2), parameters


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone()
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def give_gradients(parameters: list[torch.nn.Parameter]) -> None:
    for ours, theirs in zip(parameters[:3], parameters[3:]):
        ours.grad = _channels_last(torch.randn(ours.shape))
        theirs.grad = ours.grad.clone()


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("first", [True, False])
def test_a_refused_update_leaves_weights_and_momentum(momentum: float, first: bool) -> None:
    """Also the very first one, for which torch's fused kernel keeps uninitialised momentum."""
    ours, theirs, parameters = optimisers(momentum)
    for step in range(6):
        give_gradients(parameters)
        if step == (0 if first else 3):
            for p in parameters[:3]:
                assert p.grad is not None
                p.grad[0] = math.nan
            ours.update(torch.tensor(True))
            continue
        ours.update(torch.tensor(False))
        theirs.step()
    torch.testing.assert_close(parameters[:3], parameters[3:], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_in_another_memory_order_than_the_weights(layout: torch.memory_format) -> None:
    """Hooks and exchanges between processes may leave such gradients."""
    ours, theirs, parameters = optimisers(0.9)
    for p in parameters:
        p.data = p.data.contiguous(memory_format=layout) if p.dim() == 4 else p.data
    ours.load_state_dict(ours.state_dict())  # the momentum follows the weights
    other = torch.channels_last if layout == torch.contiguous_format else torch.contiguous_format
    for _ in range(3):
        for own, torchs in zip(parameters[:3], parameters[3:]):
            gradient = torch.randn(own.shape)
            own.grad = gradient.contiguous(memory_format=other) if own.dim() == 4 else gradient
            torchs.grad = own.grad.clone()
        ours.update(torch.tensor(False))
        theirs.step()
    torch.testing.assert_close(parameters[:3], parameters[3:], rtol=1e-6, atol=1e-7)


def test_a_momentum_in_another_memory_order_is_taken_over() -> None:
    """An official file's is contiguous, its settings name another kernel, which knows nothing of refusals."""
    ours, theirs, parameters = optimisers(0.9)
    give_gradients(parameters)
    theirs.step()
    state = theirs.state_dict()
    state["state"] = {i: {"momentum_buffer": s["momentum_buffer"].contiguous()} for i, s in state["state"].items()}
    state["param_groups"][0] |= {"foreach": True, "fused": None}
    for p, q in zip(parameters[:3], parameters[3:]):
        p.data.copy_(q.data)
    ours.load_state_dict(state)
    give_gradients(parameters)
    ours.update(torch.tensor(True))
    torch.testing.assert_close(parameters[:3], [p.detach() for p in ours.param_groups[0]["params"]])
    ours.update(torch.tensor(False))
    theirs.step()
    torch.testing.assert_close(parameters[:3], parameters[3:], rtol=1e-6, atol=1e-7)


def test_batch_statistics_are_restored_only_where_refused() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3))
    statistics = BatchStatistics(network)
    for refused in (True, False):
        statistics.remember()
        before = copy.deepcopy(network.state_dict())
        network(torch.randn(4, 3) * math.nan)
        moved = copy.deepcopy(network.state_dict())
        statistics.restore(torch.tensor(refused))
        expected = before if refused else moved
        torch.testing.assert_close(network.state_dict(), expected, rtol=0, atol=0, equal_nan=True)
    assert network[0].num_batches_tracked == 1


HEALTHY = {"loss": 5.0, "acc1": 40.0, "key_spread": 0.9}


@pytest.mark.parametrize(("changes", "words"), [
    ({"loss": math.log(4097)}, "stays at 8.318, where nothing is told apart"),
    ({"key_spread": 0.01}, "collapsed"),
    ({"acc1": 99.9}, "BatchNorm may give it away"),
])  # fmt: skip
def test_each_failure_is_named_once(changes: dict, words: str) -> None:
    watch = HealthWatch(math.log(4097), 1000)
    warnings = [text for step in range(100, 110) for text in watch.new_warnings(step, HEALTHY | changes)]
    assert len(warnings) == 1
    assert words in warnings[0]


def test_healthy_and_young_runs_get_no_warning() -> None:
    watch = HealthWatch(math.log(4097), 10_000)
    assert not [t for step in range(500) for t in watch.new_warnings(step, HEALTHY | {"loss": 8.3})]
    assert not [t for step in range(600, 900) for t in watch.new_warnings(step, HEALTHY)]
    assert not HealthWatch(math.inf, 100).new_warnings(99, {"loss": 9.0, "acc1": 100.0})


def test_checkpoints_are_named_ordered_and_pruned(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(tmp_path, steps_per_epoch=10, keep=2)
    assert checkpoints.name(2000).name == "checkpoint_0199.pth.tar"
    for step in (10, 14, 20, 25):
        checkpoints.save({"step": step, "arch": "resnet18", "state_dict": {}})
    assert [step for step, _ in checkpoints.steps()] == [25, 20]
    newest = checkpoints.newest()
    assert newest is not None
    assert newest[1]["step"] == 25


def test_every_truncation_of_a_checkpoint_falls_back(tmp_path: Path) -> None:
    """64 cuts of the newest file: never a crash, never a wrong load, always the one before."""
    checkpoints = CheckpointFolder(tmp_path, steps_per_epoch=10, keep=0)
    for step in (10, 20):
        checkpoints.save({"step": step, "arch": "resnet18", "state_dict": {"w": torch.full((64,), float(step))}})
    last = checkpoints.name(20)
    whole = last.read_bytes()
    for cut in torch.linspace(0, len(whole) - 1, 64).long().tolist():
        last.write_bytes(whole[:cut])
        newest = checkpoints.newest()
        assert newest is not None
        assert newest[1]["step"] == 10


def test_weights_hash_tells_bits_names_types_and_shapes() -> None:
    state = {
        "module.a": torch.arange(6.0).view(2, 3),
        "module.n": torch.tensor(3),
        "module.b": torch.ones(2).bfloat16(),
    }
    expected = weights_sha256(state)
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    strided = {**plain, "a": plain["a"].T.contiguous().T}
    assert weights_sha256(plain) == weights_sha256(strided) == expected
    (bit := plain["a"].clone())[0, 0] = -0.0
    others = [
        {"a": bit},
        {"a": plain["a"].view(3, 2)},
        {"n": torch.tensor(3, dtype=torch.uint64)},
        {"c": torch.ones(1)},
    ]
    assert len({expected, *(weights_sha256(plain | other) for other in others)}) == 5


@pytest.mark.parametrize("moment", ["write", "fsync", "replace", "prune"])
def test_dying_inside_a_save_leaves_a_readable_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The process ends (here: an exception nothing catches) at one point of a save; the newest readable one stays."""
    import os

    class Death(BaseException):
        pass

    def die(*args: object, **kwargs: object) -> None:
        raise Death

    checkpoints = CheckpointFolder(tmp_path, steps_per_epoch=10, keep=1)
    checkpoints.save({"step": 10, "arch": "resnet18", "state_dict": {}})
    where = {"write": (torch, "save"), "fsync": (os, "fsync"), "replace": (os, "replace"), "prune": (Path, "unlink")}
    with monkeypatch.context() as patch:
        patch.setattr(*where[moment], die)
        with pytest.raises(Death):
            checkpoints.save({"step": 20, "arch": "resnet18", "state_dict": {}})
    newest = checkpoints.newest()
    assert newest is not None
    assert newest[1]["step"] == (20 if moment == "prune" else 10)
