"""Values that no run could be made with are found in the config, before anything is written."""

import logging

import pytest

from runtime.errors import UserError
from transfer.config import CONFIG_FOLDER, default_config, load_config, merge_opts
from transfer.config.schema import PART_OF
from transfer.config.values import TO_TEST, TO_TRAIN
from transfer.engines.training.checks import check_values

CONFIGS = sorted(p.name for p in CONFIG_FOLDER.glob("*.yaml"))


def config(**opts):
    cfg = default_config()
    merge_opts(cfg, [word for key, value in opts.items() for word in (key.replace("__", "."), value)])
    return cfg


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("processes", [1, 2])
def test_every_config_passes(name, processes):
    check_values(load_config(name), processes, train=True)


@pytest.mark.parametrize("key", sorted({**TO_TEST, **TO_TRAIN}))
def test_every_bound_is_checked(key):
    floats = isinstance(dict_value(default_config(), key), float)
    cfg = default_config()
    if key in PART_OF:
        set_value(cfg, PART_OF[key], True)
    set_value(cfg, key, -1.0 if floats else -1)
    with pytest.raises(UserError, match=f"{key} -1.* must be "):
        check_values(cfg, 1, train=True)
    if key not in TO_TEST:
        check_values(cfg, 1, train=False)


def dict_value(cfg, key):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def set_value(cfg, key, value):
    *parents, leaf = key.split(".")
    for part in parents:
        cfg = cfg[part]
    cfg[leaf] = value


@pytest.mark.parametrize("rate", ["1e-300", "1e-40", "0.0", "1e999", "1e39"])
def test_a_rate_must_be_a_number_of_float32(rate):
    with pytest.raises(UserError, match="SOLVER.BASE_LR .* (must be above 0|is not a finite number)"):
        check_values(config(SOLVER__BASE_LR=rate), 1, train=True)


@pytest.mark.parametrize("steps", ["(40000,)", "(20000, 10000)", "(0, 5)", "(5, 5)"])
def test_steps_must_rise_and_end_before_the_run(steps):
    with pytest.raises(UserError, match=r"SOLVER.STEPS .* must rise from 1 and end before SOLVER.MAX_ITER 40000"):
        check_values(config(SOLVER__STEPS=steps), 1, train=True)
    check_values(config(SOLVER__STEPS="(50000,)"), 1, train=True)  # one beyond the end never comes
    check_values(config(SOLVER__STEPS=steps, SOLVER__LR_SCHEDULER_NAME="WarmupCosineLR"), 1, train=True)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ({"SOLVER__BASE_LR": "1e999"}, "SOLVER.BASE_LR inf is not a finite number"),
        ({"MODEL__RPN__SMOOTH_L1_BETA": "-1e999"}, "MODEL.RPN.SMOOTH_L1_BETA -inf is not a finite number"),
        ({"MODEL__PIXEL_MEAN": "[1.0, 2.0, 1e999]"}, "MODEL.PIXEL_MEAN .* is not a finite number"),
        ({"MODEL__PIXEL_STD": "[1.0, 0.0, 1.0]"}, "MODEL.PIXEL_STD"),
        ({"MODEL__PIXEL_STD": "[1.0]"}, "MODEL.PIXEL_STD"),
        ({"INPUT__MIN_SIZE_TRAIN": "()"}, r"INPUT.MIN_SIZE_TRAIN \(\) must hold at least one size"),
        ({"INPUT__MIN_SIZE_TRAIN": "(640, 0)"}, "INPUT.MIN_SIZE_TRAIN"),
        ({"INPUT__MIN_SIZE_TRAIN_SAMPLING": "range"}, r"INPUT.MIN_SIZE_TRAIN \(800,\) must be \(low, high\)"),
        ({"SOLVER__LR_SCHEDULER_NAME": "Exponential"}, "SOLVER.LR_SCHEDULER_NAME 'Exponential' is not known"),
        ({"SOLVER__NESTEROV": "True", "SOLVER__MOMENTUM": "0.0"}, "SOLVER: Nesterov"),
        ({"SOLVER__IMS_PER_BATCH": "15"}, "SOLVER.IMS_PER_BATCH 15 is not a multiple of 2 processes"),
        ({"SOLVER__REFERENCE_WORLD_SIZE": "3"}, "SOLVER.IMS_PER_BATCH 16 is not a multiple of REFERENCE_WORLD_SIZE 3"),
        ({"SOLVER__REFERENCE_WORLD_SIZE": "1", "SOLVER__MAX_ITER": "1"}, "MAX_ITER 0 after scaling to 2 processes"),
        ({"SOLVER__REFERENCE_WORLD_SIZE": "1", "SOLVER__STEPS": "(30000, 30001)"}, r"SOLVER.STEPS \(15000, 15000\)"),
        ({"ENGINE__ACCUMULATE": "9"}, "ENGINE.ACCUMULATE 9 must be at most 8, the number of images of one process"),
        ({"TEST__EXPECTED_RESULTS": "[5]"}, "TEST.EXPECTED_RESULTS 5"),
    ],
)
def test_values_that_no_run_can_be_made_with(opts, message):
    with pytest.raises(UserError, match=message):
        check_values(config(**opts), 2, train=True)


def test_nan_is_refused():
    cfg = default_config()
    cfg.SOLVER.BASE_LR = float("nan")
    with pytest.raises(UserError, match="SOLVER.BASE_LR nan is not a finite number"):
        check_values(cfg, 2, train=True)


def test_a_warm_up_longer_than_the_run_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        check_values(config(SOLVER__WARMUP_ITERS="40000"), 1, train=True)
    assert "SOLVER.WARMUP_ITERS 40000 does not end before SOLVER.MAX_ITER 40000" in caplog.text
