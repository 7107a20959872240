"""Leakage: which test images are also among training images, by the command and in a plan's report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from runtime.errors import UserError
from tests.transfer.toy_data import coco_content, draw_images, write_coco
from transfer.comparison.leakage import Leakage, compare_sets, open_set


@pytest.fixture
def leaky_set(tmp_path: Path) -> tuple[str, Path]:
    """A data set of 8 images, and a folder of images of which 4 are copies under other names."""
    name = write_coco(tmp_path / "test", coco_content(tmp_path / "test" / "images"))
    source, photos = tmp_path / "test" / "images", tmp_path / "photos" / "train"
    draw_images(tmp_path / "others", 14)
    photos.mkdir(parents=True)
    for k in range(8, 14):
        (tmp_path / "others" / f"img{k}.png").rename(photos / f"own{k}.png")
    (photos / "copy.png").write_bytes((source / "img1.png").read_bytes())
    with Image.open(source / "img2.png") as image:
        image.save(photos / "same.bmp")
    for k in (4, 5):
        with Image.open(source / f"img{k}.png") as image:
            image.resize((70, 70)).save(photos / f"scaled{k}.jpg", quality=70)
    return name, tmp_path / "photos"


def counts(result: Leakage) -> dict[str, int]:
    return {finding.kind: finding.count for finding in result.findings}


def test_copies_in_pretraining_images_are_found(leaky_set) -> None:
    name, photos = leaky_set
    (result,) = compare_sets(name, [str(photos)], cache=None)
    assert (result.images, result.against_images, result.unreadable, result.reason) == (8, 10, 0, "")
    assert counts(result) == {
        "test image with an equal file": 1,
        "test image with equal pixels in another file": 1,
        "test image with a near-duplicate": 2,
    }
    assert result.findings[0].example.endswith("img1.png = copy.png")
    assert "4 test images in both (8 and 10 images)" in result.line()
    one = replace(result, against_images=1, unreadable=1, findings=result.findings[:1])
    assert "1 test image in both (8 and 1 image; 1 image could not be read)" in one.line()
    assert Leakage.from_record(json.loads(json.dumps(result.as_record()))) == result


def test_a_training_set_and_a_list_of_files_are_compared_too(leaky_set, tmp_path: Path) -> None:
    name, photos = leaky_set
    (tmp_path / "list.txt").write_text("photos/train/own9.png\nphotos/train/same.bmp\n")
    half, listed = compare_sets(name, [f"{name}@50%", str(tmp_path / "list.txt")], cache=None)
    assert counts(half) == {"test image with an equal file": 4}
    assert counts(listed) == {"test image with equal pixels in another file": 1}


def test_hashes_are_kept_until_a_file_changes(leaky_set, tmp_path: Path, monkeypatch) -> None:
    name, photos = leaky_set
    cache = tmp_path / "cache"
    first = compare_sets(name, [str(photos)], cache=cache)
    files = sorted(cache.iterdir())
    assert len(files) == 2
    files[0].write_bytes(b"damaged")
    assert compare_sets(name, [str(photos)], cache=cache) == first
    monkeypatch.setattr("transfer.comparison.leakage.hash_images", lambda *_: pytest.fail("hashed again"))
    assert compare_sets(name, [str(photos)], cache=cache) == first
    monkeypatch.undo()
    (photos / "train" / "copy.png").write_bytes((photos / "train" / "own9.png").read_bytes() + b"x")
    assert sum(counts(compare_sets(name, [str(photos)], cache=cache)[0]).values()) == 3


def test_hashes_of_many_files_are_made_again_whichever_changes(leaky_set, monkeypatch) -> None:
    _, photos = leaky_set
    before = open_set(str(photos)).fingerprint
    monkeypatch.setattr("pretrain.images.fingerprints.SAMPLE", 1)
    assert open_set(str(photos)).fingerprint == before
    for path in (photos / "train").iterdir():
        data = path.read_bytes()
        path.write_bytes(data + b"x")
        assert open_set(str(photos)).fingerprint != before
        path.write_bytes(data)


def test_what_cannot_be_compared_says_why(leaky_set) -> None:
    name, photos = leaky_set
    gone, there = compare_sets(name, ["nowhere", str(photos)], cache=None)
    assert "nowhere is neither a data set nor images" in gone.reason
    assert "not compared: nowhere" in gone.line()
    assert there.findings
    assert all(result.reason for result in compare_sets("coco:gone.json:images", [str(photos)], cache=None))


def test_unreadable_images_are_counted(leaky_set) -> None:
    name, photos = leaky_set
    path = photos / "train" / "own9.png"
    path.write_bytes(path.read_bytes()[:100])
    (photos / "train" / "empty.png").write_bytes(b"")
    (result,) = compare_sets(name, [str(photos)], cache=None)
    assert result.unreadable == 2
    assert "2 images could not be read" in result.line()


def test_the_command_prints_and_writes_the_result(leaky_set, tmp_path: Path, run_cli) -> None:
    name, photos = leaky_set
    output = tmp_path / "leakage.json"
    arguments = ["transfer/leakage.py", "--test", name, "--against", str(photos), "--output", str(output)]
    done = run_cli(arguments, check=0)
    assert "4 test images in both (8 and 10 images)\n  test image with an equal file: 1, e.g. " in done.stdout
    content = json.loads(output.read_text())
    assert content["distance"] == 4
    assert Leakage.from_record(content["results"][0]) == compare_sets(name, [str(photos)], cache=None)[0]
    done = run_cli([*arguments, "--distance", "0"], check=0)
    assert json.loads(output.read_text())["distance"] == 0
    done = run_cli(["transfer/leakage.py", "--test", name, "--against", "nowhere"], check=2)
    assert "nowhere is neither a data set nor images" in done.stderr


def test_a_name_that_is_neither_is_refused() -> None:
    with pytest.raises(UserError, match=r"nowhere\.tar is neither a data set nor images"):
        open_set("nowhere.tar")
