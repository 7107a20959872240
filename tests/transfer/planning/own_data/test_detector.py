"""The detector follows the weights, the images and the machine."""

import pytest

from convert.architecture import Architecture
from transfer.config import load_config
from transfer.planning.command_settings import override_words
from transfer.planning.own_data.detector import choose_detector
from transfer.planning.own_data.looking import GB, DataLook, Machine

CPU = Machine(2, 8 * GB)
GPU = Machine(16, 40 * GB, "a GPU")
R18, R50 = Architecture(18, res2=64), Architecture(50)


def look(images: int = 1000, short: float = 480, long: float = 640, side: float = 0.2) -> DataLook:
    return DataLook(images, 200, short, long, side, {"cup": (900, 300)}, ())


@pytest.mark.parametrize(
    "architecture", [R18, Architecture(34, res2=64), R50, Architecture(101), Architecture(50, groups=32, width=128)]
)
@pytest.mark.parametrize("machine", [CPU, GPU])
def test_the_config_is_valid_for_every_architecture_and_machine(architecture, machine):
    detector = choose_detector(architecture, look(), machine)
    cfg = load_config(detector.config.value, override_words(detector.values()))
    assert architecture.depth == cfg.MODEL.RESNETS.DEPTH
    assert ("cuda" if machine.gpu else "cpu") == cfg.MODEL.DEVICE
    assert detector.batch == cfg.SOLVER.IMS_PER_BATCH
    assert len(cfg.MODEL.ANCHOR_GENERATOR.SIZES) == 5
    assert cfg.INPUT.MIN_SIZE_TEST <= cfg.INPUT.MAX_SIZE_TEST
    assert all(choice.why for choice in detector.overrides.values())


def test_images_are_as_large_as_the_data_and_the_machine_allow():
    assert load(R18, look(), CPU).INPUT.MIN_SIZE_TEST == 256
    assert load(R50, look(short=1080, long=1920), GPU).INPUT.MIN_SIZE_TEST == 800
    small = load(R50, look(short=200, long=300), GPU)
    assert (small.INPUT.MIN_SIZE_TEST, small.INPUT.MAX_SIZE_TEST) == (192, 288)
    assert max(small.INPUT.MIN_SIZE_TRAIN) == 192
    assert small.MODEL.ANCHOR_GENERATOR.SIZES[0] == [16]
    assert load(R50, look(), GPU).MODEL.ANCHOR_GENERATOR.SIZES[0] == [32]
    assert load(R18, look(short=10, long=12), CPU).INPUT.MIN_SIZE_TEST == 32


def load(architecture: Architecture, data: DataLook, machine: Machine):
    detector = choose_detector(architecture, data, machine)
    return load_config(detector.config.value, override_words(detector.values()))


def test_batch_and_rate_follow_the_linear_rule():
    small, large = load(R50, look(), Machine(4, 8 * GB, "a GPU")), load(R50, look(), GPU)
    assert (small.SOLVER.IMS_PER_BATCH, large.SOLVER.IMS_PER_BATCH) == (4, 16)
    assert pytest.approx(0.02) == large.SOLVER.BASE_LR
    assert pytest.approx(4) == large.SOLVER.BASE_LR / small.SOLVER.BASE_LR
    assert load(R18, look(), Machine(2, GB)).SOLVER.IMS_PER_BATCH == 2
    assert load(R18, look(images=20), CPU).SOLVER.IMS_PER_BATCH == 2
    assert load(R18, look(), Machine(2, None)).SOLVER.IMS_PER_BATCH == 2  # memory unknown: the smallest


def test_small_objects_are_mentioned():
    texts = [choice.why for choice in choose_detector(R18, look(short=500, side=0.03), CPU).overrides.values()]
    cfg = choose_detector(R18, look(short=200, side=0.03), CPU)
    assert any("is small: expect a low AP" in why for why in [*texts, *(c.why for c in cfg.overrides.values())])
