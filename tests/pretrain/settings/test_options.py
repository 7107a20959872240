"""Flags, recipes and schedules."""

from __future__ import annotations

import math

import pytest

from pretrain.settings.checks import check_settings, check_sizes, deciding
from pretrain.settings.options import OURS, build_parser, parse
from pretrain.settings.recipes import OFFICIAL, RECIPES, describe
from pretrain.settings.schedule import Schedule
from runtime.errors import UserError


def test_defaults_are_the_official_ones() -> None:
    """The values of main_moco.py, as its README's commands rely on them."""
    args = parse(["DIR"])
    expected = {"arch": "resnet50", "workers": 32, "epochs": 200, "batch_size": 256, "lr": 0.03, "schedule": [120, 160],
                "momentum": 0.9, "weight_decay": 1e-4, "print_freq": 10, "moco_dim": 128, "moco_k": 65536,
                "moco_m": 0.999, "moco_t": 0.07, "mlp": False, "aug_plus": False, "cos": False, "method": "moco",
                "start_epoch": 0, "world_size": -1, "rank": -1, "multiprocessing_distributed": False}  # fmt: skip
    assert {key: getattr(args, key) for key in expected} == expected


def test_official_command_lines_parse() -> None:
    v2 = "-a resnet50 --lr 0.03 --batch-size 256 --mlp --moco-t 0.2 --aug-plus --cos --dist-url tcp://localhost:10001 "
    args = parse((v2 + "--multiprocessing-distributed --world-size 1 --rank 0 /imagenet").split())
    assert (args.data, args.moco_t, args.mlp, args.cos, args.world_size) == ("/imagenet", 0.2, True, True, 1)
    args = parse(["--schedule", "10", "20", "-j", "4", "-b", "64", "--wd", "0.1", "-p", "5", "--gpu", "0"])
    assert (args.schedule, args.workers, args.weight_decay, args.gpu) == ([10, 20], 4, 0.1, 0)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_sets_options_that_exist_and_is_described(name: str) -> None:
    known = OFFICIAL.keys() | OURS.keys()
    assert RECIPES[name].keys() <= known
    args = parse(["DIR", "--recipe", name])
    assert all(getattr(args, key) == value for key, value in RECIPES[name].items() if key != "seed")
    check_settings(args)
    text = "\n".join(describe(name))
    assert all(f"--{key.replace('_', '-')} " in text for key in RECIPES[name])


def test_flags_win_over_recipes_and_recipes_over_defaults() -> None:
    args = parse(["DIR", "--recipe", "moco_v2", "--moco-t", "0.1"])
    assert (args.moco_t, args.mlp, args.moco_k) == (0.1, True, 65536)
    assert parse(["DIR", "--method", "supervised"]).lr == 0.1
    assert parse(["DIR", "--method", "instdisc"]).moco_k == 4096
    assert parse([]).recipe == "demo"
    with pytest.raises(SystemExit) as stop:
        parse(["DIR", "--recipe", "moco_v2", "--method", "supervised"])
    assert stop.value.code == 2


def test_the_small_recipes_are_those_of_their_sources() -> None:
    """The official CIFAR-10 demo's namespace, and demo_seen.py of 1904.03436, whose images are CIFAR's too."""
    args = parse(["DIR", "--recipe", "moco_cifar10"])
    assert (args.arch, args.stem, args.image_size, args.batch_size, args.bn_splits) == ("resnet18", "cifar", 32, 512, 8)
    assert (args.moco_dim, args.moco_k, args.moco_m, args.moco_t) == (128, 4096, 0.99, 0.1)
    assert (args.lr, args.weight_decay, args.epochs, args.cos, args.views) == (0.06, 5e-4, 200, True, "cifar")
    args = parse(["DIR", "--method", "invaspread"])
    assert (args.arch, args.stem, args.image_size, args.batch_size, args.epochs) == ("resnet18", "cifar", 32, 128, 301)


def test_an_empty_resume_is_none_as_in_the_official_code() -> None:
    assert parse(["DIR", "--resume", ""]).resume is None


def test_resume_does_not_swallow_the_folder() -> None:
    assert parse(["DIR", "--resume"]).resume == "auto"
    assert parse(["--resume"]).demo
    with pytest.raises(SystemExit) as stop:
        parse(["--resume", "DIR"])
    assert stop.value.code == 2


def test_every_option_either_decides_the_result_or_is_known_not_to() -> None:
    """A new option must be put on one side: a resume compares those that decide."""
    actions = {a.dest for a in build_parser()._actions} - {"help"}
    run_only = {"data", "recipe", "start_epoch", "cache", "max_bad", "val", "output", "name", "resume", "allow_change",
                "save_every", "save_steps", "keep", "knn_every", "knn_images", "knn_layer", "skip_nonfinite", "wandb",
                "device", "gpu", "multiprocessing_distributed", "world_size", "rank", "dist_url", "dist_backend",
                "workers", "print_freq"}  # fmt: skip
    decides = deciding(parse(["DIR"]), fingerprint="x", ranks=1).keys()
    assert actions == (decides | run_only) - ({"world_size"} - actions)


BAD = [
    ({"images": 100}, [], "--batch-size 256 is larger than the data set"),
    ({}, ["--moco-k", "128"], "--moco-k 128 is less than the 256 keys"),
    ({}, ["--moco-k", "600"], "--moco-k 600 is not a multiple"),
    ({}, ["--moco-k", "256", "--symmetric"], "less than the 512 keys"),
    ({}, ["--bn-splits", "3"], "--bn-splits 3 does not divide"),
    ({}, ["--bn-splits", "256"], "--bn-splits 256 does not divide"),
    ({"ranks": 3}, [], "cannot be split over 3 process"),
    ({}, ["--accumulate", "7"], "--accumulate 7"),
]


@pytest.mark.parametrize(("sizes", "flags", "message"), BAD)
def test_sizes_that_do_not_fit_are_refused(sizes: dict, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_sizes(parse(["DIR", *flags]), **{"images": 1000, "global_batch": 256, "ranks": 1, **sizes})


@pytest.mark.parametrize(("flags", "message"), [
    (["-a", "vgg16"], "unknown encoder -a vgg16; choose one of resnet18"),
    (["--moco-t", "0"], "--moco-t"),
    (["--moco-m", "1.5"], "--moco-m"),
    (["--lr", "-1"], "--lr"),
    (["--lr", "inf"], "--lr"),
    (["--momentum", "-1"], "--momentum -1.0 is not"),
    (["--wd", "nan"], "--weight-decay nan is not"),
    (["--max-bad", "-0.1"], "--max-bad"),
    (["--schedule-factors", "0.1"], "one factor for each"),
    (["--method", "end_to_end", "--negatives", "hard"], "--negatives is for --method moco; --method end_to_end has no"),
    (["--method", "supervised", "--symmetric"], "--symmetric is for --method moco"),
    (["--image-size", "4"], "--image-size 4 is too small"),
    (["--lr-gamma", "nan"], "--lr-gamma nan is not"),
    (["--share-encoder"], "--share-encoder is for --method end_to_end"),
    (["--method", "memory_bank", "--instdisc-form", "softmax"], "--instdisc-form is for --method instdisc"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_settings(parse(["DIR", *flags]))


@pytest.mark.parametrize("flags", [
    ["--keep", "-1"], ["--knn-images", "-1"], ["--start-epoch", "-1"], ["-j", "-1"], ["-b", "0"], ["-b", "many"],
])  # fmt: skip
def test_counts_below_their_least_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """``--keep -1``, say, would remove the checkpoint just written."""
    with pytest.raises(SystemExit) as stop:
        parse(["DIR", *flags])
    assert stop.value.code == 2
    assert f"{flags[1]} is not a whole number from" in capsys.readouterr().err


def test_step_and_cosine_schedules_equal_the_official_function() -> None:
    """adjust_learning_rate of main_moco.py: per epoch, cosine or x0.1 at each milestone."""
    for cos in (False, True):
        schedule = Schedule(0.03, 200 * 7, 7, cos=cos, milestones=[120, 160])
        for epoch in range(200):
            lr = 0.03
            if cos:
                lr *= 0.5 * (1.0 + math.cos(math.pi * epoch / 200))
            else:
                for milestone in (120, 160):
                    lr *= 0.1 if epoch >= milestone else 1.0
            assert schedule.rate(epoch * 7) == pytest.approx(lr)
            assert schedule.rate(epoch * 7 + 6) == pytest.approx(lr)


def test_schedules_in_iterations_with_factors_and_warm_up() -> None:
    ig = Schedule(0.12, 1_250_000, 976_562, every=62_500, gamma=0.9)
    assert ig.rate(62_499) == 0.12
    assert ig.rate(1_249_999) == pytest.approx(0.12 * 0.9**19)
    spread = Schedule(0.03, 301, 1, milestones=[120, 160, 200], factors=[0.1, 0.05, 0.01])
    assert [spread.rate(e) for e in (119, 120, 160, 200)] == pytest.approx([0.03, 0.003, 0.0015, 0.0003])
    warm = Schedule(1.0, 100, 10, warmup_steps=4)
    assert [warm.rate(s) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    by_step = Schedule(1.0, 100, 10, cos=True, by_step=True)
    assert by_step.rate(50) == pytest.approx(0.5)
    assert by_step.rate(51) < by_step.rate(50)
