"""The pre-decoded cache: the same pixels and views as the files, interruptions, and caches that do not fit."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain import cache_images
from pretrain.batches.loader import build_loader
from pretrain.images import cache as image_cache
from pretrain.images import fingerprints, open_images
from pretrain.images.files import BadImage, ImageFiles
from pretrain.views import build_views
from runtime.errors import UserError


@pytest.fixture
def folder(tmp_path) -> Path:
    """12 images of two classes and of different sizes, PNG and JPEG."""
    rng = np.random.default_rng(0)
    for index in range(12):
        target = tmp_path / "set" / f"class{index % 2}" / f"{index:02d}.{'png' if index % 3 else 'jpg'}"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40 + index, 60 - index, 3), np.uint8)).save(target)
    return tmp_path / "set"


def make(folder: Path, *options: str) -> Path:
    cache = folder.parent / "cache"
    cache_images.main([str(folder), str(cache), "--workers", "0", *options])
    return cache


def test_a_cache_holds_the_pixels_of_the_files(folder):
    source, cached = open_images(folder, labels=True), open_images(folder, labels=True, cache=make(folder))
    assert cached.fingerprint == source.fingerprint
    assert cached.classes == source.classes
    for index in range(12):
        np.testing.assert_array_equal(cached.load(index), source.load(index))
        assert (cached.name(index), cached.label(index)) == (source.name(index), source.label(index))


def test_a_cache_alone_is_a_source(folder):
    source, cache = open_images(folder, labels=True), make(folder)
    for path in folder.rglob("*.*"):
        path.unlink()
    alone = open_images(cache, labels=True)
    assert alone.fingerprint == source.fingerprint
    assert alone.labels().tolist() == source.labels().tolist()
    assert open_images(cache, labels=False).label(0) == -1
    assert alone.load(3).shape == (46, 54, 3)


def test_views_from_a_cache_equal_views_from_files(folder):
    views = build_views("v2", image_size=32, aug_on="device")
    options = {"batch_size": 4, "seed": 0, "epochs": 2}
    files = build_loader(open_images(folder, labels=False), views, **options)
    cached = build_loader(open_images(folder, labels=False, cache=make(folder)), views, workers=2, **options)
    for a, b in zip(files, cached, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.images, b.images))


def test_the_shorter_side_can_be_limited(folder):
    cached = open_images(make(folder, "--shorter-side", "45"), labels=False)
    sides = [min(cached.load(index).shape[:2]) for index in range(12)]
    assert max(sides) == 45
    assert sides[0] == 40, "smaller images are kept as they are"
    plain = Image.open(folder / "class0" / "10.png").resize((45, 45), Image.BILINEAR)
    index = [cached.name(i) for i in range(12)].index("class0/10.png")
    assert np.abs(cached.load(index).astype(int) - np.asarray(plain)).mean() < 0.2


def test_an_interrupted_cache_continues(folder, monkeypatch, capsys):
    whole = (make(folder) / image_cache.PIXELS).read_bytes()
    cache = folder.parent / "cache"
    sizes = (cache / image_cache.SIZES).read_bytes()
    summary = json.loads((cache / image_cache.SUMMARY).read_text())
    plan = {key: summary[key] for key in ("files_fingerprint", "shorter_side")}
    for kept_pixels, kept_sizes in ((20000, 96), (len(whole), 37), (0, 96), (len(whole), 96), (30001, 0)):
        (cache / image_cache.SUMMARY).unlink()
        (cache / "plan.json").write_text(json.dumps(plan))
        (cache / image_cache.PIXELS).write_bytes(whole[:kept_pixels])
        (cache / image_cache.SIZES).write_bytes(sizes[:kept_sizes])
        make(folder)
        assert (cache / image_cache.PIXELS).read_bytes() == whole
        assert (cache / image_cache.SIZES).read_bytes() == sizes
    assert not (cache / "plan.json").exists()
    (cache / "plan.json").write_text(json.dumps(plan))  # killed between the summary and the removal of the plan
    make(folder)
    assert not (cache / "plan.json").exists()
    assert "already holds these 12 images" in capsys.readouterr().out


def test_a_killed_cache_has_every_image_that_was_written(folder, monkeypatch):
    sizes, found, load = folder.parent / "cache" / image_cache.SIZES, [], cache_images.Decoded.__getitem__

    def look(self, index):
        found.append(sizes.stat().st_size // 8)  # what a kill now would leave
        return load(self, index)

    monkeypatch.setattr(cache_images.Decoded, "__getitem__", look)
    make(folder)
    assert found == list(range(12))


def test_images_that_change_while_the_cache_is_made_are_refused(folder, monkeypatch):
    load = cache_images.Decoded.__getitem__

    def touch(self, index):
        if index == 5:
            os.utime(folder / "class0" / "00.jpg", ns=(1, 1))  # replaced by a file of the same size, say
        return load(self, index)

    monkeypatch.setattr(cache_images.Decoded, "__getitem__", touch)
    with pytest.raises(UserError, match=r"were changed while .*cache was made of them; remove .*cache"):
        make(folder)
    monkeypatch.undo()
    assert not image_cache.is_cache(folder.parent / "cache")
    with pytest.raises(UserError, match="of these images before they were changed"):
        make(folder)


def test_unreadable_images_are_remembered_with_their_reason(folder):
    (folder / "class1" / "05.png").write_bytes(b"<html>")
    cached = open_images(make(folder, "--max-bad", "1"), labels=False)
    index = [cached.name(i) for i in range(12)].index("class1/05.png")
    with pytest.raises(BadImage, match=r"class1/05\.png: this is an HTML"):
        cached.load(index)
    assert cached.load(index - 1).ndim == 3


def test_too_many_unreadable_images_stop_the_cache(folder):
    for path in list(folder.rglob("*.png"))[:3]:
        path.write_bytes(b"")
    with pytest.raises(UserError, match="3 of 12 images cannot be read"):
        make(folder, "--max-bad", "2")
    with pytest.raises(UserError, match="no finished cache"):
        open_images(folder, labels=False, cache=folder.parent / "cache")


def test_a_cache_of_other_images_is_refused(folder):
    cache = make(folder)
    (folder / "class0" / "00.jpg").rename(folder / "class0" / "99.jpg")
    with pytest.raises(UserError, match="made from other images"):
        open_images(folder, labels=False, cache=cache)
    with pytest.raises(UserError, match="holds a cache of other images"):
        make(folder)
    (folder / "class0" / "99.jpg").rename(folder / "class0" / "00.jpg")
    with pytest.raises(UserError, match="--shorter-side 0"):
        make(folder, "--shorter-side", "32")


def test_a_damaged_cache_is_refused(folder):
    cache = make(folder)
    with open(cache / image_cache.PIXELS, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match="damaged"):
        open_images(cache, labels=False)
    for text in ("{", "[]", '{"schema": 99}'):
        (cache / image_cache.SUMMARY).write_text(text)
        with pytest.raises(UserError):
            open_images(cache, labels=False)


@pytest.mark.parametrize("size", [0, 7, None])
def test_a_cache_with_torn_or_missing_sizes_is_refused(folder, size):
    cache = make(folder)
    (cache / image_cache.SIZES).unlink()
    if size is not None:
        (cache / image_cache.SIZES).write_bytes(b"\1" * size)
    with pytest.raises(UserError, match="damaged"):
        open_images(cache, labels=False)


@pytest.mark.parametrize("flags", [["--shorter-side", "-5"], ["--workers", "-1"], ["--max-bad", "-1"]])
def test_negative_options_are_refused(folder, flags):
    with pytest.raises(SystemExit) as stop:
        cache_images.main([str(folder), str(folder.parent / "cache"), *flags])
    assert stop.value.code == 2
    assert not (folder.parent / "cache").exists()


def test_labels_must_be_in_the_cache(folder):
    (folder / "loose.png").write_bytes((folder / "class1" / "01.png").read_bytes())
    with pytest.raises(UserError, match="made without any"):
        open_images(make(folder), labels=True)


def test_a_cache_crosses_process_borders_without_its_pixels(folder):
    cached = open_images(make(folder), labels=False)
    cached.load(0)
    data = pickle.dumps(cached)
    assert len(data) < 5000
    np.testing.assert_array_equal(pickle.loads(data).load(5), cached.load(5))


def test_the_command_line(folder, run_cli):
    cache = folder.parent / "by-hand"
    done = run_cli(["pretrain/cache_images.py", str(folder), str(cache), "-j", "1"], check=0)
    assert "12 images" in done.stdout
    assert len(open_images(cache, labels=True)) == 12
    done = run_cli(["pretrain/cache_images.py", str(folder / "missing"), str(cache)], check=2)
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert "--shorter-side" in run_cli(["pretrain/cache_images.py", "--help"], check=0).stdout


def test_ctrl_c_is_one_line(tmp_path: Path, repo: Path) -> None:
    """The signal reaches the whole group, workers included, as from a terminal."""
    (tmp_path / "set").mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (1500, 1500, 3), np.uint8)).save(tmp_path / "first.jpg")
    for number in range(1200):  # half a minute of decoding: the signal must come before its end
        (tmp_path / "set" / f"{number:04d}.jpg").symlink_to(tmp_path / "first.jpg")
    command = [sys.executable, "pretrain/cache_images.py", str(tmp_path / "set"), str(tmp_path / "cache"), "-j", "2",
               "--shorter-side", "100"]  # fmt: skip
    process = subprocess.Popen(command, cwd=repo, stderr=subprocess.PIPE, text=True, start_new_session=True)
    pixels, end = tmp_path / "cache" / image_cache.PIXELS, time.time() + 240
    while process.poll() is None and not (pixels.exists() and pixels.stat().st_size) and time.time() < end:
        time.sleep(0.02)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ignored: list[bool] = []
    while not (len(ignored) == 2 and all(ignored)) and process.poll() is None and time.time() < end:
        masks = [Path(f"/proc/{pid}/status").read_text().split("SigIgn:")[1].split()[0] for pid in workers]
        ignored = [bool(int(mask, 16) >> (signal.SIGINT - 1) & 1) for mask in masks]  # the second may start late
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    assert ignored == [True, True]  # otherwise a worker may print a traceback
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "interrupted: run the same command again to continue"


def test_replaced_images_of_the_same_size_are_not_served_from_the_cache(folder):
    cache = make(folder)
    assert len(open_images(folder, labels=True, cache=cache)) == 12
    file = next(folder.rglob("*.png"))
    os.utime(file, ns=(1, 1))
    with pytest.raises(UserError, match=r"changed or copied since the cache .* was made"):
        open_images(folder, labels=True, cache=cache)
    assert len(open_images(cache, labels=True)) == 12


def test_a_cache_of_an_earlier_version_is_read(folder):
    cache = make(folder)
    summary = json.loads((cache / "cache.json").read_text())
    del summary["times_fingerprint"], summary["findings"]
    (cache / "cache.json").write_text(json.dumps(summary))
    assert len(open_images(folder, labels=True, cache=cache)) == 12


@pytest.mark.parametrize("labels", [True, False])
def test_a_cache_of_many_images_is_recognised_by_the_sample(labels, folder, monkeypatch):
    monkeypatch.setattr(fingerprints, "SAMPLE", 4)
    cache, source = make(folder), open_images(folder, labels=labels)
    whole = source.whole_fingerprints()
    summary = json.loads((cache / "cache.json").read_text())
    assert (summary["files_fingerprint"], summary["times_fingerprint"]) == whole[1:]  # as earlier versions read it
    with monkeypatch.context() as patch:
        patch.setattr(ImageFiles, "whole_fingerprints", None)
        cached = open_images(folder, labels=labels, cache=cache)
    for one in (cached, open_images(cache, labels=labels)):
        assert one.fingerprints_like(source.fingerprint) == source.fingerprints_like(source.fingerprint)
        assert one.fingerprints_like("") == whole
    for file in folder.rglob("*.*"):
        os.utime(file, ns=(1, 1))
    with pytest.raises(UserError, match="changed or copied since"):
        open_images(folder, labels=labels, cache=cache)
    (folder / "class0" / "00.jpg").rename(folder / "class0" / "99.jpg")
    with pytest.raises(UserError, match="made from other images"):
        open_images(folder, labels=labels, cache=cache)


def test_a_cache_of_many_images_of_an_earlier_version_is_read(folder, monkeypatch):
    cache = make(folder)
    assert "sampled_fingerprints" not in json.loads((cache / "cache.json").read_text())
    monkeypatch.setattr(fingerprints, "SAMPLE", 4)
    source = open_images(folder, labels=True)
    cached, alone = open_images(folder, labels=True, cache=cache), open_images(cache, labels=True)
    assert cached.fingerprint == source.fingerprint
    assert cached.times_fingerprint == source.times_fingerprint
    assert cached.fingerprints_like("") == alone.fingerprints_like("") == source.whole_fingerprints()
    make(folder)  # "already holds these images"
    for file in sorted(folder.rglob("*.*"))[::-1]:
        with open(file, "ab") as image:
            image.write(b"!")
        with pytest.raises(UserError, match="made from other images"):  # all files are compared, whichever it is
            open_images(folder, labels=True, cache=cache)
        os.truncate(file, file.stat().st_size - 1)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_workers_end_with_their_parent(tmp_path, repo):
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (2400, 2400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    for number in range(300):
        (tmp_path / "images" / f"{number}.png").symlink_to(tmp_path / "noise.png")
    command = [
        sys.executable,
        repo / "pretrain" / "cache_images.py",
        tmp_path / "images",
        tmp_path / "cache",
        "-j",
        "2",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    pixels, end = tmp_path / "cache" / "pixels.bin", time.time() + 120
    while not (pixels.exists() and pixels.stat().st_size) and time.time() < end:
        time.sleep(0.1)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.wait()
    end = time.time() + 6  # what they were asked for would take longer: 32 images each
    while any(map(is_alive, workers)) and time.time() < end:
        time.sleep(0.1)
    assert not [worker for worker in workers if is_alive(worker)]
