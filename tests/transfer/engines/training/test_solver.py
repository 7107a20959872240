"""Learning rates, parameter groups and clipping: known values everywhere, Detectron2's where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from runtime.errors import UserError
from tests.transfer.engines.backbone_cases import VIT
from tests.transfer.engines.engine_cases import COMMON
from transfer.engines.torchvision.builder import build_model
from transfer.engines.training.layer_decay import vit_factor
from transfer.engines.training.solver import CLIPPERS, Schedule, build_optimizer, build_solver

BASE = {"scheduler": "WarmupMultiStepLR", "max_iter": 100, "steps": (60, 80), "warmup_iters": 10}


def rates(base_lr: float = 0.02, **options: Any) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base_lr)
    schedule = Schedule(optimizer, **{**BASE, **options})
    values = []
    for iteration in range(options.get("max_iter", 100) + 1):
        schedule.set(iteration)
        values.append(schedule.current())
    return values


def test_steps_and_linear_warm_up() -> None:
    lr = rates()
    assert lr[0] == pytest.approx(0.02 * 0.001)
    assert lr[5] == pytest.approx(0.02 * (0.001 * 0.5 + 0.5))
    assert lr[10] == lr[59] == 0.02
    assert lr[60] == lr[79] == pytest.approx(0.002)
    assert lr[80] == lr[100] == pytest.approx(0.0002)


def test_constant_warm_up_and_steps_beyond_the_end() -> None:
    lr = rates(warmup_method="constant", warmup_factor=0.5, steps=(60, 8000))
    assert lr[9] == 0.01
    assert lr[11] == 0.02
    assert lr[99] == pytest.approx(0.002)


@pytest.mark.parametrize(("max_iter", "steps"), [(1, (1,)), (100, (100,)), (100, (80, 60)), (100, (0, 60))])
def test_steps_that_make_no_schedule_are_refused(max_iter: int, steps: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=rf"SOLVER.STEPS .* before SOLVER.MAX_ITER {max_iter}"):
        rates(max_iter=max_iter, steps=steps)


def test_fixed_gamma_decays_at_equal_distances() -> None:
    lr = rates(scheduler="WarmupStepWithFixedGammaLR", num_decays=3, warmup_iters=0)
    assert [lr[i] for i in (0, 24, 25, 50, 75, 100)] == pytest.approx([0.02, 0.02, 2e-3, 2e-4, 2e-5, 2e-5])


def test_cosine_ends_at_its_end_value() -> None:
    lr = rates(scheduler="WarmupCosineLR", end_factor=0.1, warmup_iters=0)
    assert lr[0] == 0.02
    assert lr[50] == pytest.approx(0.02 * (0.1 + 0.9 / 2))
    assert lr[100] == pytest.approx(0.002)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(False)
        self.gn = nn.GroupNorm(2, 4)


OPTIONS: dict[str, Any] = {
    "base_lr": 0.1,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 1e-4,
    "weight_decay_norm": 0.0,
}


def test_norms_do_not_decay_and_frozen_parameters_stay_out() -> None:
    groups = build_optimizer(Net(), **OPTIONS).param_groups
    assert [(len(g["params"]), g["lr"], g["weight_decay"]) for g in groups] == [(2, 0.1, 1e-4), (4, 0.1, 0.0)]


def test_bias_options() -> None:
    groups = build_optimizer(Net(), **OPTIONS, bias_lr_factor=2.0, weight_decay_bias=0.5).param_groups
    found = {(g["lr"], g["weight_decay"]): len(g["params"]) for g in groups}
    assert found == {(0.1, 1e-4): 1, (0.2, 0.5): 3, (0.1, 0.0): 2}


def test_clipping_is_per_tensor() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))]
    parameters[0].grad, parameters[1].grad = torch.tensor([30.0, 40.0]), torch.tensor([0.3, 0.4])
    CLIPPERS["norm"](parameters, 1.0, 2.0)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6, 0.8]))
    assert parameters[1].grad.tolist() == pytest.approx([0.3, 0.4])
    parameters[0].grad = torch.tensor([3.0, -4.0])
    CLIPPERS["value"](parameters, 1.0, 2.0)
    assert parameters[0].grad.tolist() == [1.0, -1.0]


@pytest.mark.detectron2
def test_equals_detectron2_over_schedules() -> None:
    from detectron2.config import get_cfg
    from detectron2.solver import build_lr_scheduler

    rng = np.random.RandomState(0)
    names = ["WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"]
    for trial in range(30):
        cfg = get_cfg()
        solver = cfg.SOLVER
        solver.MAX_ITER = int(rng.randint(20, 300))
        solver.STEPS = tuple(sorted(int(s) for s in rng.randint(1, 320, rng.randint(0, 4))))
        solver.LR_SCHEDULER_NAME = names[trial % 3]
        solver.WARMUP_ITERS = int(rng.randint(0, 30))
        solver.WARMUP_METHOD = ["linear", "constant"][rng.randint(2)]
        solver.RESCALE_INTERVAL = bool(rng.randint(2))
        solver.BASE_LR, solver.BASE_LR_END, solver.NUM_DECAYS = 0.02, 0.001, int(rng.randint(1, 5))
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.02)
        theirs = build_lr_scheduler(cfg, optimizer)
        ours = rates(
            scheduler=solver.LR_SCHEDULER_NAME,
            max_iter=solver.MAX_ITER,
            steps=solver.STEPS,
            num_decays=solver.NUM_DECAYS,
            end_factor=solver.BASE_LR_END / solver.BASE_LR,
            warmup_iters=solver.WARMUP_ITERS,
            warmup_method=solver.WARMUP_METHOD,
            rescale_interval=solver.RESCALE_INTERVAL,
        )
        for iteration in range(solver.MAX_ITER):
            assert optimizer.param_groups[0]["lr"] == ours[iteration], (trial, iteration)
            optimizer.step()
            if iteration + 1 < solver.MAX_ITER:
                theirs.step()


@pytest.mark.detectron2
@pytest.mark.parametrize("bias", [(1.0, None), (2.0, 0.0)])
def test_parameter_groups_equal_detectron2(bias: tuple[float, float | None]) -> None:
    from detectron2.solver.build import get_default_optimizer_params

    net = Net()
    theirs = get_default_optimizer_params(
        net, base_lr=0.1, weight_decay_norm=0.0, bias_lr_factor=bias[0], weight_decay_bias=bias[1]
    )
    ours = build_optimizer(net, **OPTIONS, bias_lr_factor=bias[0], weight_decay_bias=bias[1]).param_groups
    assert len(ours) == len(theirs)
    for group, other in zip(ours, theirs):
        assert [id(p) for p in group["params"]] == [id(p) for p in other["params"]]
        assert group["lr"] == other["lr"]
        assert group["weight_decay"] == other.get("weight_decay", 1e-4)


OTHER_SOLVER = {
    "SOLVER.BASE_LR": 0.3,
    "SOLVER.BASE_LR_END": 0.003,
    "SOLVER.MOMENTUM": 0.7,
    "SOLVER.NESTEROV": True,
    "SOLVER.WEIGHT_DECAY": 0.02,
    "SOLVER.WEIGHT_DECAY_NORM": 0.001,
    "SOLVER.BIAS_LR_FACTOR": 2.0,
    "SOLVER.WEIGHT_DECAY_BIAS": 0.05,
    "SOLVER.MAX_ITER": 60,
    "SOLVER.STEPS": (30, 50),
    "SOLVER.GAMMA": 0.2,
    "SOLVER.NUM_DECAYS": 2,
    "SOLVER.WARMUP_ITERS": 11,
    "SOLVER.WARMUP_FACTOR": 0.05,
    "SOLVER.WARMUP_METHOD": "constant",
    "SOLVER.RESCALE_INTERVAL": True,
}


@pytest.mark.detectron2
@pytest.mark.parametrize("scheduler", ["WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"])
def test_every_key_of_the_solver_reaches_it(scheduler: str) -> None:
    from detectron2.config import get_cfg
    from detectron2.solver import build_lr_scheduler, build_optimizer

    from transfer.config import default_config

    ours, theirs = default_config(), get_cfg()
    for key, value in {**OTHER_SOLVER, "SOLVER.LR_SCHEDULER_NAME": scheduler}.items():
        for cfg in (ours, theirs):
            cfg.merge_from_list([key, value])
    torch.manual_seed(0)
    net, other = Net(), Net()
    other.load_state_dict(net.state_dict())
    optimizer, schedule = build_solver(ours, net)
    expected = build_optimizer(theirs, other)
    stepper = build_lr_scheduler(theirs, expected)
    schedule.set(0)
    for iteration in range(12):
        for one, model in ((optimizer, net), (expected, other)):
            one.zero_grad()
            model.gn(
                model.norm(model.conv(torch.full((2, 3, 2, 2), iteration / 9).cumsum(3)))
            ).square().sum().backward()
            one.step()
        schedule.set(iteration + 1)
        stepper.step()
        rates_of = [
            [(g["lr"], g["weight_decay"], g["momentum"]) for g in one.param_groups] for one in (optimizer, expected)
        ]
        assert rates_of[0] == rates_of[1], iteration
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())


def adamw_config(**settings: Any) -> Any:
    from transfer.config import default_config

    cfg = default_config()
    for key, value in {**COMMON, **VIT, "SOLVER.OPTIMIZER": "AdamW", **settings}.items():
        cfg.merge_from_list([key, value])
    return cfg


def test_adamw_steps_as_torchs_own_with_the_settings_of_the_config() -> None:
    cfg = adamw_config(**{"SOLVER.BASE_LR": 0.1, "SOLVER.BETAS": (0.8, 0.9), "SOLVER.WEIGHT_DECAY": 0.05})
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    optimizer, _ = build_solver(cfg, ours)
    expected = torch.optim.AdamW(
        theirs.parameters(), lr=optimizer.param_groups[0]["lr"], betas=(0.8, 0.9), weight_decay=0.05
    )
    for _ in range(3):
        for net, one in ((ours, optimizer), (theirs, expected)):
            one.zero_grad()
            net(torch.ones(1, 3)).sum().backward()
            one.step()
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_the_learning_rate_decays_from_the_output_to_the_patches_and_positions_do_not_decay() -> None:
    cfg = adamw_config(**{"SOLVER.LAYER_DECAY": 0.5, "SOLVER.NO_DECAY": ["pos_embed"], "SOLVER.BASE_LR": 1.0})
    model = build_model(cfg)
    optimizer, _ = build_solver(cfg, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    warm_up = max(group["lr"] for group in optimizer.param_groups)  # of the first iteration, for all alike
    rates = {names[id(p)]: (g["lr"] / warm_up, g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert len(rates) == len(names)
    assert rates["roi_heads.box_predictor.cls_score.weight"][0] == 1.0
    assert rates["backbone.net.blocks.3.attn.qkv.weight"][0] == pytest.approx(0.5)
    assert rates["backbone.net.blocks.0.attn.qkv.weight"][0] == pytest.approx(0.5**4)
    assert rates["backbone.net.patch_embed.proj.weight"][0] == pytest.approx(0.5**5)
    assert rates["backbone.net.pos_embed"] == (pytest.approx(0.5**5), 0.0)


@pytest.mark.detectron2
def test_layer_decay_equals_detectron2s() -> None:
    from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate

    model = build_model(adamw_config(**{"MODEL.VIT.RESIDUAL_BLOCKS": [1, 3]}))
    for name, _ in model.named_parameters():
        assert vit_factor(name, 0.7, 4) == get_vit_lr_decay_rate(name, lr_decay_rate=0.7, num_layers=4), name
