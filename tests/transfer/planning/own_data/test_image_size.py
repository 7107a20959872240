"""Where hours are few, images become smaller before the schedule becomes useless, but objects stay clear."""

import pytest

from transfer.planning.own_data.image_size import CLEAR_OBJECT, SMALLEST, smaller_side, trains_enough
from transfer.planning.own_data.looking import DataLook
from transfer.planning.own_data.schedule import BRIEF, LEAST_SEEDS, Pace, Schedule, choose_schedule, wanted_steps

PACE = Pace(start=10, step=1.0, statistics=0.5, test_image=0.1, memory_mb=2000, spent=40)
IMAGES, BATCH, USUAL = 1000, 4, 256
WANTED = wanted_steps(IMAGES, BATCH)


def look(object_side: float) -> DataLook:
    return DataLook(IMAGES, 100, 480, 640, object_side, {"cup": (900, 300)}, ())


def of_hours(hours: float):
    def schedule(pace: Pace) -> Schedule:
        return choose_schedule(
            images=IMAGES,
            test_images=100,
            batch=BATCH,
            inits=["random", "mine"],
            pace=pace,
            hours=hours,
            margin=0.5,
        )

    return schedule


def chosen(hours: float, object_side: float = 0.5) -> int:
    return smaller_side(look(object_side), USUAL, PACE, of_hours(hours), WANTED)


def test_hours_that_suffice_keep_the_usual_size():
    assert trains_enough(of_hours(20)(PACE), WANTED)
    assert chosen(20) == USUAL


def test_fewer_hours_take_the_largest_size_that_trains_enough():
    sides = [chosen(hours) for hours in (5, 3, 2, 0.5)]
    assert sides == sorted(sides, reverse=True)
    assert USUAL > sides[0] > sides[-1] == SMALLEST
    for hours, side in zip((5, 3, 2), sides):
        area = (side / USUAL) ** 2
        plan = of_hours(hours)(Pace(10, area, 0.5 * area, 0.1 * area, 2000, 40 * (1 + area)))
        assert (plan.steps.value >= BRIEF * WANTED and plan.least == LEAST_SEEDS) or side == SMALLEST
        larger = ((side + 32) / USUAL) ** 2
        plan = of_hours(hours)(Pace(10, larger, 0.5 * larger, 0.1 * larger, 2000, 40 * (1 + larger)))
        assert plan.steps.value < BRIEF * WANTED


@pytest.mark.parametrize(("object_side", "side"), [(0.2, 160), (CLEAR_OBJECT / USUAL, USUAL), (0.05, USUAL)])
def test_objects_stay_clear(object_side, side):
    assert chosen(0.5, object_side) == side


def test_nothing_changes_where_not_even_the_smallest_images_fit():
    assert chosen(0.001) == USUAL


def test_images_that_are_small_already_stay():
    assert smaller_side(look(0.9), 64, PACE, of_hours(0.5), WANTED) == 64
