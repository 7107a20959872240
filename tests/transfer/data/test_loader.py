"""Loaders: resume, ranks, workers, and equality with Detectron2 batch by batch."""

import itertools
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from runtime.errors import UserError
from tests.transfer.data.loaders import loader, make_mapper, signal_the_workers, take
from tests.transfer.toy_data import write_coco
from transfer.data.catalog import get_dataset
from transfer.data.loader import PackedRecords, build_test_loader, draw_base_seed


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return get_dataset(write_coco(tmp_path_factory.mktemp("toy"), count=14)).records()


def same_batches(ours, theirs):
    assert [[i["image_id"] for i in b] for b in ours] == [[i["image_id"] for i in b] for b in theirs]
    for a, b in zip(itertools.chain.from_iterable(ours), itertools.chain.from_iterable(theirs)):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"]["boxes"], b["instances"]["boxes"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_starts_late_continues_the_stream(records, workers):
    whole = take(loader(records, num_workers=workers), 9)
    same_batches(whole[6:], take(loader(records, num_workers=workers, start=6), 3))


def test_workers_outlive_the_signals_that_stop_a_run(records):
    batches = iter(loader(records, num_workers=2))
    started = list(itertools.islice(batches, 1))
    signal_the_workers()
    same_batches(started + list(itertools.islice(batches, 8)), take(loader(records, num_workers=2), 9))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere workers are spawned")
def test_workers_are_forked_whatever_pythons_default_is(records):
    """From Python 3.14 on a server forks workers: they would copy all records, and outlive a killed run."""
    method = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        stream = iter(loader(records, num_workers=1))
        next(stream)
        (worker,) = multiprocessing.active_children()
        assert type(worker).__name__ == "ForkProcess"
    finally:
        multiprocessing.set_start_method(method, force=True)


def test_a_process_that_ends_with_its_loader_open_does_not_wait_for_the_workers(repo, tmp_path):
    name = write_coco(tmp_path, count=4)
    command = [sys.executable, "-m", "tests.transfer.data.programs.open_loader", name]
    subprocess.run(command, cwd=repo, timeout=300, check=True)


def test_iterating_leaves_the_global_generators_alone(records):
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(0)
    np.random.seed(0)
    take(loader(records, num_workers=2), 2)
    take(loader(records), 2)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])


def test_ranks_share_the_stream(records):
    options = {"aspect_grouping": False, "batch_size": 1}
    alone = [b[0]["image_id"] for b in take(loader(records, **options), 28)]
    ranks = [[b[0]["image_id"] for b in take(loader(records, rank=r, world=2, **options), 14)] for r in range(2)]
    assert list(itertools.chain.from_iterable(zip(*ranks))) == alone


def test_test_loader_gives_every_image_once_in_order(records):
    mapper = make_mapper(train=False, min_sizes=(40,), flip="none")
    shares = [build_test_loader(records=records, mapper=mapper, rank=r, world=3, num_workers=r % 2) for r in range(3)]
    assert [len(s) for s in shares] == [5, 5, 4]
    items = [item for share in shares for batch in share for item in batch]
    assert [i["image_id"] for i in items] == [r["image_id"] for r in records]
    assert "instances" not in items[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_in_a_worker_is_one_clear_line(records, workers, tmp_path):
    broken = [dict(r) for r in records]
    (tmp_path / "bad.png").write_bytes(b"nothing")
    for r in broken:
        r["file_name"] = str(tmp_path / "bad.png")
    with pytest.raises(UserError, match=r"bad\.png cannot be read") as caught:
        take(loader(broken, num_workers=workers), 1)
    assert "Traceback" not in str(caught.value)


def test_packed_records_come_back_equal(records):
    packed = PackedRecords(records)
    assert len(packed) == len(records)
    assert [packed[i]["image_id"] for i in range(len(packed))] == [r["image_id"] for r in records]


def test_base_seed_is_what_a_torch_loader_draws():
    torch.manual_seed(5)
    ours = draw_base_seed()
    torch.manual_seed(5)
    iterator = iter(torch.utils.data.DataLoader([1, 2], num_workers=1))
    assert iterator._base_seed == ours


SETTINGS = {
    "plain": {},
    "range, vertical": {
        "INPUT.MIN_SIZE_TRAIN": (30, 50),
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range",
        "INPUT.RANDOM_FLIP": "vertical",
    },
    "polygons": {"MODEL.MASK_ON": True},
    "bitmasks": {"MODEL.MASK_ON": True, "INPUT.MASK_FORMAT": "bitmask"},
    **{
        f"{kind} crops{', ' + masks if masks else ''}": {
            "INPUT.CROP.ENABLED": True,
            "INPUT.CROP.TYPE": kind,
            "INPUT.CROP.SIZE": size,
            "MODEL.MASK_ON": bool(masks),
            "INPUT.MASK_FORMAT": masks or "polygon",
        }
        for kind, size, masks in (
            ("relative_range", [0.3, 0.4], "polygon"),
            ("relative", [0.5, 0.7], "bitmask"),
            ("absolute", [30, 25], "polygon"),
            ("absolute_range", [20, 60], ""),
        )
    },
    "jitter, polygons": {"INPUT.LSJ.ENABLED": True, "INPUT.LSJ.SIZE": 50, "MODEL.MASK_ON": True},
    "jitter, bitmasks": {
        "INPUT.LSJ.ENABLED": True,
        "INPUT.LSJ.SIZE": 60,
        "INPUT.LSJ.MIN_SCALE": 0.5,
        "MODEL.MASK_ON": True,
        "INPUT.MASK_FORMAT": "bitmask",
    },
    "jitter, no flip": {"INPUT.LSJ.ENABLED": True, "INPUT.LSJ.SIZE": 40, "INPUT.RANDOM_FLIP": "none"},
    "no grouping, no flip": {"DATALOADER.ASPECT_RATIO_GROUPING": False, "INPUT.RANDOM_FLIP": "none"},
    "rgb, repeat factors": {
        "INPUT.FORMAT": "RGB",
        "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
        "DATALOADER.REPEAT_THRESHOLD": 0.9,
    },
}


def jittering_mapper(cfg):
    """Detectron2's mapper as projects/ViTDet configures it."""
    from detectron2.data import DatasetMapper
    from detectron2.data import transforms as T

    jitter = cfg.INPUT.LSJ
    square = (jitter.SIZE, jitter.SIZE)
    flips = [T.RandomFlip()] if cfg.INPUT.RANDOM_FLIP == "horizontal" else []
    return DatasetMapper(
        is_train=True,
        augmentations=[
            *flips,
            T.ResizeScale(jitter.MIN_SCALE, jitter.MAX_SCALE, *square),
            T.FixedSizeCrop(square, pad=False),
        ],
        image_format=cfg.INPUT.FORMAT,
        use_instance_mask=cfg.MODEL.MASK_ON,
        instance_mask_format=cfg.INPUT.MASK_FORMAT,
        recompute_boxes=cfg.MODEL.MASK_ON,
    )


@pytest.mark.detectron2
@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("name", SETTINGS)
def test_batches_equal_detectron2s(name, workers, tmp_path):
    from detectron2.config import get_cfg
    from detectron2.data import DatasetCatalog, build_detection_train_loader
    from detectron2.structures import BoxMode
    from detectron2.utils.env import seed_all_rng

    from transfer.engines.detectron2.backbones import add_keys

    spec = get_dataset(write_coco(tmp_path, count=14))
    cfg = add_keys(get_cfg())
    cfg.DATASETS.TRAIN = ("toy",)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (32, 40, 48), 90
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS, cfg.SEED = 2, workers, 6
    for key, value in SETTINGS[name].items():
        cfg.merge_from_list([key, value])

    def theirs_records():
        for r in spec.records():
            yield {**r, "annotations": [{**a, "bbox_mode": BoxMode(a["bbox_mode"])} for a in r["annotations"]]}

    DatasetCatalog.pop("toy", None)
    DatasetCatalog.register("toy", lambda: list(theirs_records()))
    seed_all_rng(cfg.SEED)
    seed = draw_base_seed() if workers else cfg.SEED
    seed_all_rng(cfg.SEED)
    mapper = jittering_mapper(cfg) if cfg.INPUT.LSJ.ENABLED else None
    theirs = take(build_detection_train_loader(cfg, mapper=mapper), 12)

    from transfer.engines.training.batches import TrainingFeed

    own = add_keys(get_cfg())
    own.merge_from_other_cfg(cfg)
    own.DATASETS.TRAIN = (spec.name,)
    own.MODEL.ROI_HEADS.NUM_CLASSES = len(spec.class_names)
    ours = take(TrainingFeed(own, 0, 1, cfg.SEED).streams(seed, 0, 0)[0], 12)
    assert [[i["image_id"] for i in b] for b in ours] == [[i["image_id"] for i in b] for b in theirs]
    for mine, other in zip(itertools.chain.from_iterable(ours), itertools.chain.from_iterable(theirs)):
        instances = other["instances"]
        assert torch.equal(mine["image"], other["image"])
        assert torch.equal(mine["instances"]["boxes"], instances.gt_boxes.tensor)
        assert torch.equal(mine["instances"]["classes"], instances.gt_classes)
        if cfg.MODEL.MASK_ON:
            masks = mine["instances"]["masks"]
            if cfg.INPUT.MASK_FORMAT == "bitmask":
                assert torch.equal(masks, instances.gt_masks.tensor)
            else:
                assert [len(polygons) for polygons in masks] == [len(p) for p in instances.gt_masks.polygons]
                pairs = zip(
                    itertools.chain.from_iterable(masks), itertools.chain.from_iterable(instances.gt_masks.polygons)
                )
                assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.detectron2
def test_reading_equals_detectron2s_for_every_orientation(tmp_path):
    from detectron2.data.detection_utils import read_image as theirs

    from transfer.data.mapper import read_image

    pixels = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    for mode, suffix in (("RGB", "jpg"), ("L", "jpg"), ("RGBA", "png"), ("P", "png"), ("CMYK", "jpg")):
        for orientation in (None, *range(1, 9)):
            image = Image.fromarray(pixels).convert(mode)
            exif = image.getexif()
            if orientation:
                exif[0x0112] = orientation
            path = tmp_path / f"{mode}{orientation}.{suffix}"
            image.save(path, exif=exif)
            for form in ("BGR", "RGB", "L"):
                assert np.array_equal(read_image(str(path), form), theirs(str(path), form)), (mode, orientation, form)
