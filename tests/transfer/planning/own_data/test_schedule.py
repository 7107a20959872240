"""Steps and seeds by the number of images and the hours: within the hours, and honest where they do not suffice."""

import re

import pytest

from transfer.planning.own_data.schedule import (
    FEWEST_STEPS,
    SAFETY,
    Pace,
    Schedule,
    choose_schedule,
    comparisons,
    precise_batches,
    wanted_steps,
)

PACE = Pace(start=10, step=1.0, statistics=0.3, test_image=0.1, memory_mb=2000, spent=40)


def chosen(hours: float | None, **changes) -> Schedule:
    given = {"images": 1000, "test_images": 200, "batch": 4, "inits": ["random", "mine"], "pace": PACE, "margin": 0.5}
    return choose_schedule(**{**given, **changes}, hours=hours)


def test_the_documented_table_holds(repo):
    text = (repo / "docs" / "own_data.md").read_text()
    rows = re.findall(r"^\| ([\d,]+) \| (\d+) \| \(", text, re.M)
    assert len(rows) == 3
    for images, steps in rows:
        assert wanted_steps(int(images.replace(",", "")), 4) == int(steps)


def test_steps_grow_with_images_and_shrink_with_the_batch():
    steps = [wanted_steps(images, 4) for images in (10, 100, 200, 500, 1000, 5000, 118_000)]
    assert steps == sorted(steps)
    assert steps[0] == steps[2] == 2000
    assert steps[-1] == 118_000 * 12 // 4
    assert wanted_steps(1000, 16) == wanted_steps(1000, 4) / 4


@pytest.mark.parametrize("hours", [0.1, 0.3, 1, 3, 10, 30, 100])
@pytest.mark.parametrize("inits", [["random", "a"], ["random", "a", "supervised", "b"]])
def test_a_plan_takes_no_longer_than_its_hours(hours, inits):
    plan = chosen(hours, inits=inits)
    total = plan.total_hours(len(inits), plan.most) + PACE.spent / 3600
    assert total <= hours * SAFETY * 1.001 or not plan.fits
    if not plan.fits:
        assert total > hours * SAFETY
        needed = re.search(r"about ([\d.]+) h", plan.short)
        assert needed
        assert chosen(float(needed[1]) + 0.01, inits=inits).fits
    if plan.fits and plan.most < 10:  # what is left is less than another seed
        assert plan.total_hours(len(inits), plan.most + 1) > hours * SAFETY - PACE.spent / 3600


def test_hours_that_suffice_give_the_usual_schedule_and_say_what_the_seeds_see():
    plan = chosen(20)
    assert (plan.steps.value, plan.least, plan.most, plan.short) == (6000, 3, 5, "")
    assert "24 epochs" in plan.steps.why
    assert "they can see differences above" in plan.why_seeds


def test_short_hours_shorten_the_schedule_before_they_cost_seeds():
    plan = chosen(1.5)
    assert plan.most == plan.least == 3
    assert FEWEST_STEPS < plan.steps.value < 3000
    assert "of the usual schedule" in plan.short
    few = chosen(0.12)
    assert few.most < 3
    assert "cannot decide anything" in few.short


def test_hours_for_nothing_are_said():
    plan = chosen(0.02)
    assert (plan.fits, plan.steps.value, plan.most) == (False, FEWEST_STEPS, 1)
    assert "cannot decide anything" in plan.short


def test_label_fractions_come_with_room_only():
    assert chosen(20).fraction == 0
    plan = chosen(100)
    assert (plan.fraction, plan.most) == (0.25, 10)
    assert plan.fraction_steps == wanted_steps(250, 4) < plan.steps.value
    assert chosen(1000, images=3000).fraction == 0.1
    assert chosen(1000, images=300).fraction == 0


def test_without_hours_seeds_are_added_until_decided():
    plan = chosen(None)
    assert (plan.steps.value, plan.least, plan.most, plan.fits) == (6000, 3, 10, True)


def test_comparisons_are_those_of_the_report():
    assert comparisons(["random", "a"]) == 1
    assert comparisons(["random", "a", "b"]) == 2
    assert comparisons(["random", "supervised"]) == 1
    assert comparisons(["random", "a", "supervised"]) == 3


def test_a_run_takes_what_its_parts_take():
    assert PACE.run(1000, 200) == pytest.approx(10 + 1000 + 100 * 0.3 + 20)
    assert precise_batches(20) == 10
    assert precise_batches(10_000) == 100
