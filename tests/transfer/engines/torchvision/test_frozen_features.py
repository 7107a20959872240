"""Maps of a frozen backbone, one image at a time and from a cache: the same bits, refused where nothing is frozen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import UserError
from runtime.torch_files import load_torch, save_torch
from tests.transfer.engines import engine_cases
from transfer.data import mapper
from transfer.data.catalog import get_dataset
from transfer.data.mapper import file_state
from transfer.engines.torchvision import feature_cache
from transfer.engines.torchvision.builder import build_model
from transfer.engines.torchvision.frozen_features import FrozenFeatures, view_bytes
from transfer.engines.training.batches import build_mapper
from transfer.engines.training.frozen_backbone import bottom_up

FROZEN = {"MODEL.BACKBONE.FREEZE_AT": 5, "SOLVER.MAX_ITER": 12, "MODEL.MASK_ON": True, "SOLVER.BASE_LR": 1e-6}
C4: dict[str, Any] = {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.RPN.IN_FEATURES": ["res4"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 32, 64]],
    "MODEL.ROI_BOX_HEAD.NAME": "",
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
}
C5 = {**engine_cases.C5, "MODEL.BACKBONE.NAME": "build_resnet_dilated_c5_backbone"}
DETECTORS: dict[str, dict[str, Any]] = {
    "FPN, precise norms": {"MODEL.FPN.NORM": "BN", "TEST.PRECISE_BN.ENABLED": True, "TEST.PRECISE_BN.NUM_ITER": 2},
    "C4": C4,
    "dilated C5": C5,
    "RetinaNet": {**engine_cases.RETINANET, "MODEL.RETINANET.NUM_CLASSES": 3, "MODEL.MASK_ON": False},
    "proposals": {"MODEL.META_ARCHITECTURE": "ProposalNetwork", "MODEL.MASK_ON": False},
    "bfloat16": {"SOLVER.AMP.ENABLED": True, "ENGINE.AMP_DTYPE": "bfloat16"},
    "channels last": {"ENGINE.CHANNELS_LAST": True},
}


def read_item(image: Path) -> dict[str, Any]:
    """What the loader makes of an image file, as far as the cache looks at it."""
    return {
        "file_name": str(image),
        "file_state": file_state(str(image)),
        "view": (64, False),
        "image": torch.zeros(3, 6, 8),
    }


def with_features(kind: str, folder: Path | str = "") -> dict[str, Any]:
    return {"ENGINE.FEATURES": kind, "ENGINE.FEATURE_FOLDER": str(folder)}


@pytest.mark.parametrize("name", DETECTORS)
def test_a_cached_run_ends_with_the_bits_of_one_without_a_cache(
    name: str, tiny_config: Callable[..., Any], engine: Any, weights_of: Callable[[Path], Any], tmp_path: Path
) -> None:
    settings = [FROZEN, DETECTORS[name]]
    runs = {"image": with_features("image"), "first": with_features("cached", tmp_path / "c")}
    runs["second"] = runs["first"]
    weights = {}
    for run, given in runs.items():
        torch.manual_seed(0)
        engine.train(tiny_config(*settings, given), tmp_path / run)
        weights[run] = weights_of(tmp_path / run)
    for run in ("first", "second"):
        if "RetinaNet" in name:  # its focal loss differs between the first call of a process and later ones
            assert all(torch.allclose(weights[run][k], v, atol=1e-5) for k, v in weights["image"].items())
        else:
            assert all(torch.equal(weights[run][key], value) for key, value in weights["image"].items())


def test_a_second_run_computes_nothing(
    tiny_config: Callable[..., Any], engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny_config(FROZEN, with_features("cached", tmp_path / "cache"))
    engine.train(cfg, tmp_path / "first")
    files = sorted((tmp_path / "cache").rglob("*.pth"))
    assert 8 < len(files) <= 8 * 2 * 2  # images, sizes, mirrored

    def fail(*args: Any) -> None:
        raise AssertionError("the maps were computed again")

    monkeypatch.setattr(feature_cache.FeatureCache, "store", fail)
    engine.train(cfg, tmp_path / "second")
    assert sorted((tmp_path / "cache").rglob("*.pth")) == files


def test_another_backbone_has_a_folder_of_its_own(tiny_config: Callable[..., Any], engine: Any, tmp_path: Path) -> None:
    for seed in (1, 2):  # random weights
        engine.train(
            tiny_config(FROZEN, with_features("cached", tmp_path / "cache"), {"SEED": seed}), tmp_path / str(seed)
        )
    stored = [json.loads(path.read_text()) for path in (tmp_path / "cache").glob("*/made_with.json")]
    assert len({one["backbone sha256"] for one in stored}) == len(stored) == 2


def test_equal_images_give_what_a_batch_gives(tiny_config: Callable[..., Any]) -> None:
    cfg = tiny_config(FROZEN)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    items = [{"image": torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)} for _ in range(3)]
    whole, sizes = model.features(items)
    model.frozen_stages = FrozenFeatures()
    alone, same = model.features(items)
    assert sizes == same
    for name, value in whole.items():
        torch.testing.assert_close(alone[name], value, rtol=1e-3, atol=1e-3)


def test_an_image_has_the_same_maps_in_every_batch(tiny_config: Callable[..., Any]) -> None:
    model = build_model(tiny_config(FROZEN, C4)).train()
    small, large = ({"image": torch.randint(0, 255, (3, *size), dtype=torch.uint8)} for size in ((48, 64), (90, 70)))
    model.frozen_stages = FrozenFeatures()
    alone, together = model.features([small])[0]["res4"], model.features([small, large])[0]["res4"]
    height, width = alone.shape[2:]
    assert torch.equal(together[:1, :, :height, :width], alone)
    assert not together[0, :, height:].any()
    assert not together[0, :, :, width:].any()


def test_an_image_that_was_replaced_is_computed_again(tmp_path: Path) -> None:
    cache = feature_cache.FeatureCache(tmp_path / "cache", {})
    image = tmp_path / "a.png"
    image.write_bytes(b"one")
    item = read_item(image)
    cache.store(item, {"res4": torch.ones(1, 2, 3, 4)})
    assert torch.equal(cache.load(item)["res4"], torch.ones(1, 2, 3, 4))
    assert cache.load({**item, "view": (64, True)}) is None
    image.write_bytes(b"another")
    assert cache.load(read_item(image)) is None
    cache.store(item, {"res4": torch.zeros(1, 2, 3, 4)})  # read before it was replaced, computed after
    assert cache.load(read_item(image)) is None
    changing = {**read_item(image), "file_state": None}  # replaced while it was read
    cache.store(changing, {"res4": torch.ones(1, 2, 3, 4)})
    assert cache.load(changing) is None
    assert len(list((tmp_path / "cache").rglob("*.pth"))) == 1


def test_an_item_knows_which_file_was_read(
    tiny_coco: str, tiny_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mapping = build_mapper(tiny_config(with_features("cached", tmp_path / "cache")), train=True)
    record = dict(get_dataset(tiny_coco).records()[0])
    record["file_name"] = shutil.copy(record["file_name"], tmp_path / "a.png")
    draw = mapping.geometry.draw(np.random.RandomState(0), (record["height"], record["width"]))
    status = (tmp_path / "a.png").stat()
    assert mapping(record, draw)["file_state"] == (status.st_size, status.st_mtime_ns)
    read = mapper.read_image

    def replaced_meanwhile(path: str, image_format: str) -> np.ndarray:
        pixels = read(path, image_format)
        os.utime(path, ns=(0, 0))
        return pixels

    monkeypatch.setattr(mapper, "read_image", replaced_meanwhile)
    assert mapping(record, draw)["file_state"] is None


def test_two_processes_fill_one_cache(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    program = Path(__file__).parents[1] / "programs" / "fill_cache.py"
    words = [sys.executable, str(program), *(str(tmp_path / name) for name in ("cache", "a.png", "start"))]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(words, **pipes) for _ in range(2)]
    (tmp_path / "start").touch()
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sorted(path.suffix for path in files) == [".json", *[".pth"] * 60]


@pytest.mark.parametrize("name", ["a view", "made_with.json"])
def test_a_folder_in_the_place_of_a_file_is_one_line(name: str, tmp_path: Path) -> None:
    cache = feature_cache.FeatureCache(tmp_path / "cache", {})
    (tmp_path / "a.png").write_bytes(b"one")
    item = read_item(tmp_path / "a.png")
    cache.store(item, {"res4": torch.ones(1, 2, 3, 4)})
    (file,) = (tmp_path / "cache").rglob("*.pth" if name == "a view" else name)
    file.unlink()
    file.mkdir()
    with pytest.raises(UserError, match=f"ENGINE.FEATURE_FOLDER: {file} is a folder, where the cache has a file"):
        feature_cache.FeatureCache(tmp_path / "cache", {}).store(item, {"res4": torch.ones(1, 2, 3, 4)})


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", "a list", "another size", "a flipped bit", "no maps"])
def test_a_damaged_file_is_computed_again(content: bytes | str, tmp_path: Path) -> None:
    cache = feature_cache.FeatureCache(tmp_path / "cache", {})
    image = tmp_path / "a.png"
    image.write_bytes(b"one")
    item = read_item(image)
    cache.store(item, {"res4": torch.ones(1, 2, 3, 4)})
    (file,) = (tmp_path / "cache").rglob("*.pth")
    assert cache.load(item) is not None
    whole = load_torch(file)
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "a flipped bit":
        raw = bytearray(file.read_bytes())
        raw[raw.index(b"\x00\x00\x80?" * 4)] ^= 1  # of a 1.0
        file.write_bytes(raw)
    else:
        save_torch({"a list": {**whole, "maps": {"res4": [1, 2]}}, "no maps": {"res4": whole["maps"]["res4"]}}.get(
            content, {**whole, "size": [6, 9]}), file)  # fmt: skip
    assert cache.load(item) is None


def test_maps_of_other_names_are_computed_again(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    model = build_model(tiny_config(FROZEN, C4)).train()
    cache = feature_cache.FeatureCache(tmp_path / "cache", {})
    (tmp_path / "a.png").write_bytes(b"one")
    image = torch.randint(0, 255, (3, 48, 64), dtype=torch.uint8)
    item = {**read_item(tmp_path / "a.png"), "view": (48, False), "image": image}
    cache.store(item, {"other": torch.ones(1, 2, 3, 4)})
    model.frozen_stages = FrozenFeatures(cache)
    assert list(model.features([item])[0]) == ["res4"]


@pytest.mark.parametrize("kind", ["batch", "cached"])
def test_what_is_no_cache_stays(kind: str, tiny_config: Callable[..., Any], engine: Any, tmp_path: Path) -> None:
    mine = tmp_path / "feature_cache" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    cfg = tiny_config(FROZEN, with_features(kind), {"OUTPUT_DIR": str(tmp_path), "SOLVER.MAX_ITER": 2})
    engine.train(cfg, tmp_path)
    assert [path.name for path in mine.parent.iterdir()] == ["mine.txt"]


def test_a_full_disk_is_said_and_does_not_end_a_run(
    tiny_config: Callable[..., Any],
    engine: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=feature_cache.RESERVE - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    cfg = tiny_config(FROZEN, with_features("cached", tmp_path / "cache"))
    with caplog.at_level("INFO"):
        engine.train(cfg, tmp_path / "run")
    assert not list((tmp_path / "cache").rglob("*.pth"))
    assert "about 0 % of the views fit on the disk" in caplog.text
    assert "up to 24 views (8 images, 4 views each)" in caplog.text


def test_the_size_that_is_said_is_the_size_of_the_maps(tiny_config: Callable[..., Any]) -> None:
    cfg = tiny_config(FROZEN, {"INPUT.MIN_SIZE_TRAIN": (64,)})
    model = build_model(cfg)
    maps = bottom_up(model)(torch.zeros(1, 3, 64, 64))
    bytes_of_maps = sum(value.numel() * value.element_size() for value in maps.values())
    assert view_bytes(cfg, bottom_up(model), [(64, 64)]) == bytes_of_maps


class StopAt:
    """A stop signal that comes after a few steps."""

    left = 4

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize(
    ("before", "now"), [("", "new"), ("old", "new"), ("old", ""), ("old", "old"), ("", "feature_cache")]
)
def test_a_resumed_run_says_where_its_maps_are(
    before: str,
    now: str,
    tiny_config: Callable[..., Any],
    engine: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folders = {"": "", **{name: str(tmp_path / name) for name in ("old", "new", "feature_cache")}}
    for name, stop in ((before, StopAt()), (now, None)):
        cfg = tiny_config(FROZEN, with_features("cached", folders[name]), {"OUTPUT_DIR": str(tmp_path)})
        engine.train(cfg, tmp_path, stop=stop, resume=stop is None)
        if stop is not None:
            assert "the maps of the frozen backbone were kept" not in caplog.text
    old, new = (folders[name] or str(tmp_path / "feature_cache") for name in (before, now))
    says = (
        f"were kept in {old} until the last checkpoint ({'they stay, for other runs' if before else 'removed'}); from"
    )
    assert (
        (says in caplog.text) == (f"ENGINE.FEATURE_FOLDER is {new}: maps that it lacks" in caplog.text) == (old != new)
    )
    kept = {name for name in ("old", "new", "feature_cache") if list((tmp_path / name).rglob("*.pth"))}
    assert kept == {name for name in (before, now) if name}  # its own is removed, whenever it leaves it


def test_a_runs_own_cache_is_removed_at_its_end(tiny_config: Callable[..., Any], engine: Any, tmp_path: Path) -> None:
    cfg = tiny_config(FROZEN, with_features("cached"), {"OUTPUT_DIR": str(tmp_path)})
    assert engine.train(cfg, tmp_path, stop=StopAt()).stopped
    assert list((tmp_path / "feature_cache").rglob("*.pth"))
    engine.train(cfg, tmp_path, resume=True)
    assert not (tmp_path / "feature_cache").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"MODEL.BACKBONE.FREEZE_AT": 2}, "ENGINE.FEATURES cached needs a frozen backbone"),
        ({"ENGINE.COMPILE": True}, "does not use a compiled backbone"),
        ({"INPUT.CROP.ENABLED": True}, "with INPUT.CROP.ENABLED no view of an image comes a second time"),
        ({"INPUT.LSJ.ENABLED": True}, "with INPUT.LSJ.ENABLED no view"),
        ({"ENGINE.FEATURES": "kept"}, "ENGINE.FEATURES 'kept' is not supported .* 'batch', 'image', 'cached'"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    settings: dict[str, Any], message: str, tiny_config: Callable[..., Any], engine: Any
) -> None:
    with pytest.raises(UserError, match=message):
        engine.check(tiny_config(FROZEN, with_features("cached"), settings))


def test_random_crops_are_computed_one_image_at_a_time(
    tiny_config: Callable[..., Any], engine: Any, tmp_path: Path
) -> None:
    cfg = tiny_config(FROZEN, with_features("image"), {"INPUT.CROP.ENABLED": True, "SOLVER.MAX_ITER": 2})
    engine.check(cfg)
    assert engine.train(cfg, tmp_path).iterations == 2


def test_a_folder_that_cannot_be_made_is_one_line(tiny_config: Callable[..., Any], engine: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="ENGINE.FEATURE_FOLDER .* cannot be created"):
        engine.train(tiny_config(FROZEN, with_features("cached", tmp_path / "file" / "x")), tmp_path / "run")
