"""No training step waits for the device. Tested without a GPU.

A tensor on the "meta" device has no values: an operation that reads one fails there, where on a GPU it would wait. Two
kinds of waiting remain: blocking copies between host and device, and operations that copy their operands to one device
themselves. A dispatch mode refuses both.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.images.source import ImageSource
from pretrain.methods import METHODS
from pretrain.methods.base import Method
from pretrain.methods.pcl import Pcl, Prototypes
from pretrain.methods.row import SamplingRule, Sizes
from pretrain.settings.options import parse
from pretrain.training.informed_epochs import InformedEpochs
from pretrain.training.loop import Stepper
from pretrain.training.optimiser import SkippableSGD
from pretrain.training.step_guard import StepGuard
from pretrain.views.batch import Batch
from runtime.distributed import World

META = torch.device("meta")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
SMALL = ["-a", "resnet18", "--moco-k", "16", "--moco-dim", "8"]


class Waits(RuntimeError):
    """The host would have waited."""


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait for a device. ``updates`` counts the optimiser's kernel calls that carry a refusal."""

    updates = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._fused_sgd_.default:  # torch has no meta kernel for it
            assert kwargs["found_inf"].device == META
            self.updates += 1
            return None
        operands = torch.utils._pytree.tree_leaves((args, kwargs))
        places = {t.device for t in operands if isinstance(t, torch.Tensor) and t.dim()}
        if func in COPIES:
            ends = {args[0].device, kwargs.get("device") or args[0].device if func is COPIES[0] else args[1].device}
            blocking = not (kwargs.get("non_blocking") or (func is COPIES[1] and len(args) > 2 and args[2]))
            if len(ends) > 1 and blocking:
                raise Waits(f"a blocking copy between {ends}")
            if args[0].device == META and kwargs.get("device") == torch.device("cpu"):
                return torch.zeros(args[0].shape, dtype=args[0].dtype)  # the copy for the host, read later
        elif len(places) > 1:
            raise Waits(f"{func} copies its operands from {places} to one device")
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast does not know the meta device; it chooses types and reads no value."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())


def build(flags: list[str]) -> tuple[Method, SkippableSGD, list[torch.Tensor]]:
    """The method of a command line and its optimiser on the meta device, and the views of one batch."""
    settings = parse(["DIR", *SMALL, *flags])
    method = settings.build_method(Sizes(32, 4, 8, 1)).train().to(META)
    try:
        optimizer = SkippableSGD(method.trained_parameters(), 0.1, momentum=0.9)
    except RuntimeError as error:  # torch 2.4 asks here, before the check can be switched off
        pytest.skip(f"this torch makes no fused optimiser for the meta device ({error})")
    optimizer._need_device_dtype_check_for_fused = False  # which refuses devices without the kernel
    views = [torch.empty(8, 3, 32, 32, device=META) for _ in range(settings.row.crops)]
    return method, optimizer, views


def batch(step: int) -> Batch:
    return Batch(step, 0, torch.arange(8), [], torch.arange(8) % 4, torch.empty(0))


@pytest.mark.parametrize("flags", [
    *(["--method", name, "--bn-splits", "2"] for name in sorted(METHODS)),
    *(["--negatives", name, "--mlp"] for name in ("queue", "debiased", "hard", "active")),
    *(["--negatives", "cluster", "--cluster-start", "0", "--cluster-use", use] for use in ("drop", "down", "hard")),
    ["--negatives", "active", "--active-draw", "sampled"],
    ["--negatives", "mochi", "--mlp", "--mochi-warmup", "0", "--mochi-hardest", "4"],
    ["--symmetric"],
    ["--accumulate", "2"],
    ["--method", "instdisc", "--instdisc-form", "softmax"],
    ["--method", "end_to_end", "--share-encoder"],
], ids=" ".join)  # fmt: skip
def test_no_step_waits_for_the_device(tmp_path: Path, flags: list[str]) -> None:
    method, optimizer, views = build(flags)
    guard = StepGuard(tmp_path, tolerated=1)
    stepper = Stepper(method, optimizer, guard, 2 if "--accumulate" in flags else 1)
    with NoWaiting() as watch:
        for step in range(2):
            stepper(batch(step), views)
            guard.read(late=1)
    assert watch.updates == 2


def test_no_step_with_prototypes_waits(tmp_path: Path) -> None:
    """The E-step between epochs does; its result is given here."""
    flags = ["--method", "pcl", "--pcl-warmup", "0", "--num-cluster", "4,6", "--pcl-r", "3"]
    method, optimizer, views = build(flags)
    assert isinstance(method, Pcl)
    shapes = [(torch.empty(k, 8), torch.zeros(32, dtype=torch.long), torch.empty(k)) for k in (4, 6)]
    method.prototypes = [Prototypes(*(tensor.to(META) for tensor in tensors)) for tensors in shapes]
    with NoWaiting() as watch:
        Stepper(method, optimizer, StepGuard(tmp_path))(batch(1), views)
    assert watch.updates == 1


@pytest.mark.parametrize("by", ["loss", "uncertainty"])
@pytest.mark.parametrize("flags", [[], ["--symmetric"], ["--accumulate", "2"]], ids=" ".join)
def test_no_step_that_scores_its_images_waits(
    tmp_path: Path, by: str, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    method, optimizer, views = build(flags)
    rule, world = SamplingRule(by), World(0, 1, 0, META)
    method.informed_by = by
    informed = InformedEpochs(rule, ImageSource([str(n) for n in range(32)], None, None), tmp_path, world)
    stepper = Stepper(method, optimizer, StepGuard(tmp_path), 2 if "--accumulate" in flags else 1, informed.note)
    with NoWaiting() as watch:
        for step in range(2):
            stepper(batch(step), views)
    assert watch.updates == 2
    assert [len(values) for _, values, _ in informed._unread] == [8, 8]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_no_step_of_several_ranks_waits_either(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 of 2, with the exchanges between ranks, which NCCL queues on the device like any other work."""
    answers = {"is_initialized": True, "get_rank": 1, "get_world_size": 2, "all_reduce": None, "all_gather": None}
    for function, answer in answers.items():
        monkeypatch.setattr(torch.distributed, function, lambda *_, answer=answer: answer)
    method, optimizer, views = build(["--method", name])
    guard = StepGuard(tmp_path)
    with NoWaiting() as watch:
        Stepper(method, optimizer, guard)(batch(0), views, stopping=True)
        guard.read()
    assert watch.updates == 1


@pytest.mark.parametrize("wait", [
    lambda there, here: bool(there.sum() > 0),
    lambda there, here: there.sum().item(),
    lambda there, here: there.nonzero(),
    lambda there, here: there[there > 0],
    lambda there, here: here.to(META),
    lambda there, here: there.copy_(here),
    lambda there, here: there[here.long()],
])  # fmt: skip
def test_the_watch_sees_what_waits(wait: Any) -> None:
    with NoWaiting(), pytest.raises((RuntimeError, NotImplementedError)):
        wait(torch.empty(4, device=META), torch.ones(4))


def test_the_readings_of_a_logged_step_may_wait(tmp_path: Path) -> None:
    """The readings of a logged step do. Read at every step, they would fail the tests above."""
    method, optimizer, views = build([])
    with NoWaiting(), pytest.raises(RuntimeError, match="item"):
        Stepper(method, optimizer, StepGuard(tmp_path))(batch(0), views, read=True)


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(METHODS))
def test_no_step_waits_for_a_gpu(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on a GPU, where CUDA itself says who waits."""
    monkeypatch.undo()
    device = torch.device("cuda")
    method = parse(["DIR", *SMALL, "--method", name]).build_method(Sizes(32, 4, 8, 1)).train()
    method.to(device).to(memory_format=torch.channels_last)
    guard = StepGuard(tmp_path, tolerated=1)
    stepper = Stepper(method, SkippableSGD(method.trained_parameters(), 0.1, momentum=0.9), guard)
    views = [torch.randn(8, 3, 32, 32, device=device) for _ in range(METHODS[name].crops)]
    for step in range(4):
        torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first step sets cuDNN up
        try:
            stepper(batch(step), views)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        guard.read(late=1)
    assert all(torch.isfinite(parameter).all() for parameter in method.parameters())
