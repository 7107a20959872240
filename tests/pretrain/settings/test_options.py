"""Flags, recipes and schedules."""

from __future__ import annotations

import dataclasses
import math
import pickle

import pytest

from pretrain.methods.row import Sizes
from pretrain.settings.checks import check_settings, check_sizes, deciding
from pretrain.settings.options import build_parser, defaults, parse
from pretrain.settings.recipes import RECIPES, describe
from pretrain.settings.schedule import Schedule
from runtime.errors import UserError


def test_defaults_are_the_official_ones() -> None:
    """The values of main_moco.py, as its README's commands rely on them."""
    settings = parse(["DIR"])
    expected = {"arch": "resnet50", "epochs": 200, "batch_size": 256, "lr": 0.03, "schedule": [120, 160],
                "momentum": 0.9, "weight_decay": 1e-4, "moco_dim": 128, "moco_k": 65536, "moco_m": 0.999,
                "moco_t": 0.07, "mlp": False, "aug_plus": False, "cos": False, "method": "moco"}  # fmt: skip
    assert {key: settings.recorded[key] for key in expected} == expected
    assert (settings.data.workers, settings.print_freq, settings.optimisation.start_epoch) == (32, 10, 0)
    processes = settings.processes
    assert (processes.world_size, processes.rank, processes.multiprocessing_distributed) == (-1, -1, False)


def test_the_typed_settings_are_those_that_are_recorded() -> None:
    """Every recorded value is also the value of a field, under the same name, that the run reads."""
    settings = parse(["DIR", "--schedule", "3", "7", "--symmetric", "--moco-m", "0.5", "--views", "v2", "--seed", "4"])
    groups = (settings, settings.model, settings.options, settings.data, settings.optimisation)
    fields = {field.name: getattr(group, field.name) for group in groups for field in dataclasses.fields(group)}
    of_other_methods = {"bank_momentum", "instdisc_form", "share_encoder", "num_cluster", "pcl_warmup", "pcl_r"}
    of_other_methods |= {"moco_mlp_dim", "moco_m_cos", "stop_grad_conv1"}
    assert settings.recorded.keys() - fields.keys() == of_other_methods
    for name in settings.recorded.keys() - of_other_methods:
        value = settings.recorded[name]
        assert fields[name] == (tuple(value) if isinstance(value, list) else value), name


def test_settings_reach_a_spawned_process() -> None:
    settings = parse(["DIR", "--method", "instdisc", "--instdisc-form", "softmax", "--schedule", "3"])
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_settings_cannot_be_changed() -> None:
    settings = parse(["DIR"])
    for group in (settings, settings.model, settings.options, settings.data, settings.optimisation, settings.saving):
        name = dataclasses.fields(group)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(group, name, None)


def test_official_command_lines_parse() -> None:
    v2 = "-a resnet50 --lr 0.03 --batch-size 256 --mlp --moco-t 0.2 --aug-plus --cos --dist-url tcp://localhost:10001 "
    settings = parse((v2 + "--multiprocessing-distributed --world-size 1 --rank 0 /imagenet").split())
    assert (settings.data.data, settings.model.moco_t, settings.model.mlp) == ("/imagenet", 0.2, True)
    assert (settings.optimisation.cos, settings.processes.world_size) == (True, 1)
    settings = parse(["--schedule", "10", "20", "-j", "4", "-b", "64", "--wd", "0.1", "-p", "5", "--gpu", "0"])
    assert (settings.optimisation.schedule, settings.optimisation.weight_decay) == ((10, 20), 0.1)
    assert (settings.data.workers, settings.processes.gpu) == (4, 0)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_sets_options_that_exist_and_is_described(name: str) -> None:
    assert RECIPES[name].keys() <= defaults().keys()
    settings = parse(["DIR", "--recipe", name])
    values = {**settings.recorded, "workers": settings.data.workers}
    assert all(values[key] == value for key, value in RECIPES[name].items())
    check_settings(settings)
    text = "\n".join(describe(name))
    assert all(f"--{key.replace('_', '-')} " in text for key in RECIPES[name])


def test_flags_win_over_recipes_and_recipes_over_defaults() -> None:
    model = parse(["DIR", "--recipe", "moco_v2", "--moco-t", "0.1"]).model
    assert (model.moco_t, model.mlp, model.moco_k) == (0.1, True, 65536)
    assert parse(["DIR", "--method", "supervised"]).optimisation.lr == 0.1
    assert parse(["DIR", "--method", "instdisc"]).model.moco_k == 4096
    assert parse([]).recipe == "demo"
    with pytest.raises(SystemExit) as stop:
        parse(["DIR", "--recipe", "moco_v2", "--method", "supervised"])
    assert stop.value.code == 2


def test_the_small_recipes_are_those_of_their_sources() -> None:
    """The official CIFAR-10 demo's namespace, and demo_seen.py of 1904.03436, whose images are CIFAR's too."""
    moco = parse(["DIR", "--recipe", "moco_cifar10"]).recorded
    expected = {"arch": "resnet18", "stem": "cifar", "image_size": 32, "batch_size": 512, "bn_splits": 8,
                "moco_dim": 128, "moco_k": 4096, "moco_m": 0.99, "moco_t": 0.1, "lr": 0.06, "weight_decay": 5e-4,
                "epochs": 200, "cos": True, "views": "cifar"}  # fmt: skip
    assert {key: moco[key] for key in expected} == expected
    spread = parse(["DIR", "--method", "invaspread"]).recorded
    expected = {"arch": "resnet18", "stem": "cifar", "image_size": 32, "batch_size": 128, "epochs": 301}
    assert {key: spread[key] for key in expected} == expected


def test_an_empty_resume_is_none_as_in_the_official_code() -> None:
    assert parse(["DIR", "--resume", ""]).saving.resume is None


def test_resume_does_not_swallow_the_folder() -> None:
    assert parse(["DIR", "--resume"]).saving.resume == "auto"
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
                "workers", "print_freq", "dry_run"}  # fmt: skip
    decides = deciding(parse(["DIR"]), fingerprint="x", ranks=1).keys()
    assert actions == decides | run_only
    # "data" and "world_size" are recorded by what they turn out to be, not by what the flags say
    assert decides & run_only == {"data", "world_size"}


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
    settings = parse(["DIR", *flags])
    images, ranks = sizes.get("images", 1000), sizes.get("ranks", 1)
    with pytest.raises(UserError, match=message):
        check_sizes(settings, Sizes(images, 0, 256, images // 256, settings.optimisation.accumulate), ranks)


@pytest.mark.parametrize(("flags", "message"), [
    (["-a", "vgg16"], "unknown encoder -a vgg16; choose one of resnet18"),
    (["--moco-t", "0"], "--moco-t must be positive, not 0.0"),
    (["--moco-m", "1.5"], "--moco-m must be between 0 and 1, not 1.5"),
    (["--lr", "-1"], "--lr must be above 0 and a number that float32 can hold .*, not -1.0"),
    (["--lr", "inf"], "--lr must be above 0 and a number that float32 can hold .*, not inf"),
    (["--lr", "1e-300"], "--lr must be above 0 and a number that float32 can hold .*, not 1e-300"),
    (["--momentum", "-1"], "--momentum must be 0 or more and a finite number, not -1.0"),
    (["--wd", "nan"], "--weight-decay must be 0 or more and a finite number, not nan"),
    (["--max-bad", "-0.1"], "--max-bad must be 0 or more"),
    (["--hard-beta", "inf"], "--hard-beta must be 0 or more and a finite number, not inf"),
    (["--class-prior", "1"], "--class-prior must be 0 or more and below 1, not 1.0"),
    (["--method", "instdisc", "--bank-momentum", "-1"], "--bank-momentum must be 0 or more"),
    (["--schedule-factors", "0.1"], "one factor for each"),
    (["--method", "end_to_end", "--negatives", "hard"], "--negatives is an option of --method moco; --method end_to"),
    (["--method", "supervised", "--symmetric"], "--symmetric is an option of --method moco"),
    (["--bank-momentum", "0.9"], "--bank-momentum is an option of --method memory_bank and instdisc; --method moco do"),
    (["--method", "supervised", "--mochi-pairs", "8"], "--mochi-pairs is an option of --method moco"),
    (["--image-size", "4"], "--image-size 4 is too small"),
    (["--lr-gamma", "nan"], "--lr-gamma must be 0 or more"),
    (["--share-encoder"], "--share-encoder is an option of --method end_to_end"),
    (["--method", "memory_bank", "--instdisc-form", "softmax"], "--instdisc-form is an option of --method instdisc"),
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
    error = capsys.readouterr().err
    assert "must be a whole number, " in error
    assert f" or more, not {flags[1]} (" in error


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
