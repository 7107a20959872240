"""Tar shards: what is found in them, the order that streams them, resuming in mid-epoch, and damaged shards."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.batches.loader import build_loader
from pretrain.batches.order import BlockOrder
from pretrain.images import open_images, shard_index, shards
from pretrain.images.files import BadImage
from pretrain.views import build_views
from runtime.errors import UserError, run_entry


def png(value: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((24, 24, 3), value, np.uint8)).save(data, "PNG")
    return data.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path) -> Path:
    """5 shards of 7 images; image i of shard s is the grey level 40 s + i and has label s."""
    for shard in range(5):
        members = {}
        for image in range(7):
            key = f"part.of/{shard}/{image:04d}"
            members[f"{key}.png"] = png(40 * shard + image)
            members[f"{key}.cls"] = str(shard).encode()
            members[f"{key}.json"] = b"{}"
        write_tar(tmp_path / f"s-{shard:03d}.tar", members)
    return tmp_path


def test_images_and_labels_are_found(folder):
    source = open_images(folder, labels=True)
    assert len(source) == 35
    assert source.classes == ["0", "1", "2", "3", "4"]
    assert [source.label(index) for index in (0, 6, 7, 34)] == [0, 0, 1, 4]
    assert source.labels().tolist() == sorted(source.labels().tolist())
    assert [int(source.load(index)[0, 0, 0]) for index in (0, 6, 7, 34)] == [0, 6, 40, 166]
    assert source.name(8) == "s-001.tar/part.of/1/0001.png"


@pytest.mark.parametrize("pattern", ["s-{000..004}.tar", "s-00{0..4}.tar", "s-{000,001,002,003,004}.tar"])
def test_patterns_name_the_same_shards_as_the_folder(folder, pattern):
    source = open_images(folder / pattern, labels=False)
    assert source.fingerprint == open_images(folder, labels=False).fingerprint
    assert len(open_images(folder / "s-003.tar", labels=False)) == 7


def test_the_index_is_kept_and_made_again_when_the_shard_changes(folder, monkeypatch):
    before = open_images(folder, labels=False)
    monkeypatch.setattr(shard_index, "scan", lambda path: pytest.fail(f"{path} is scanned again"))
    assert open_images(folder, labels=False).fingerprint == before.fingerprint
    monkeypatch.undo()
    write_tar(folder / "s-002.tar", {"new.png": png(7)})
    (folder / "s-003.tar.index").write_bytes(b"torn")
    after = open_images(folder, labels=False)
    assert len(after) == 29
    assert after.fingerprint != before.fingerprint


def test_a_sample_has_one_image_and_other_members_are_ignored(tmp_path):
    write_tar(
        tmp_path / "a.tar", {"x.jpg": png(1), "x.png": png(2), "x.seg.png": png(3), "y.txt": b"", "z/x.PNG": png(4)}
    )
    source = open_images(tmp_path, labels=False)
    assert [source.name(index) for index in range(len(source))] == ["a.tar/x.jpg", "a.tar/z/x.PNG"]


def test_long_names_survive(tmp_path):
    name = "d" * 90 + "/" + "f" * 180 + ".png"
    write_tar(tmp_path / "a.tar", {name: png(1)})
    source = open_images(tmp_path, labels=False)
    assert source.name(0) == f"a.tar/{name}"
    assert source.load(0).shape == (24, 24, 3)


# The order


def block_order(**options) -> BlockOrder:
    options = {"images": 100, "batch_size": 10, "seed": 0, "block_ends": np.arange(10, 101, 10), "window": 3, **options}
    return BlockOrder(**options)


def test_a_streamed_epoch_shows_every_image_once():
    for ends in ([10, 20, 30], [1, 2, 30], [30], [5, 5, 30]):
        order = block_order(images=30, batch_size=6, block_ends=np.array(ends), window=2)
        for epoch in range(3):
            shown = np.concatenate([order.batch(5 * epoch + step) for step in range(5)])
            assert sorted(shown) == list(range(30))


def test_a_streamed_epoch_stays_within_its_window_of_shards():
    order = block_order()
    seen = [
        set((np.concatenate([order.batch(s) for s in part]) // 10).tolist()) for part in ((0, 1, 2), (3, 4, 5), (9,))
    ]
    assert [len(part) for part in seen] == [3, 3, 1]
    assert not seen[0] & seen[1]
    assert len(set((order.batch(0) // 10).tolist())) > 1, "the shards of a window are mixed"
    assert not np.array_equal(order.batch(0), order.batch(10)), "the next epoch has another order"


@pytest.mark.parametrize("world", [2, 5])
def test_the_streamed_images_of_a_step_do_not_depend_on_the_world_size(world):
    ranks = [block_order(rank=rank, world_size=world) for rank in range(world)]
    for step in (0, 3, 14):
        np.testing.assert_array_equal(np.concatenate([rank.batch(step) for rank in ranks]), block_order().batch(step))


def test_a_run_continues_in_mid_epoch_with_the_same_batches(folder):
    def batches(start: int, workers: int) -> list[torch.Tensor]:
        source, views = open_images(folder, labels=True), build_views("v2", image_size=32, aug_on="device")
        options = {"batch_size": 4, "seed": 3, "epochs": 2, "start_step": start, "workers": workers}
        return [
            torch.cat([batch.images[0].flatten(), batch.images[1].flatten(), batch.labels])
            for batch in build_loader(source, views, **options)
        ]

    whole = batches(0, 0)
    assert len(whole) == 16
    for start, workers in ((3, 0), (11, 2)):
        rest = batches(start, workers)
        assert len(rest) == 16 - start
        assert all(torch.equal(a, b) for a, b in zip(whole[start:], rest))


def test_only_a_few_shards_are_open_at_a_time(folder, monkeypatch):
    monkeypatch.setattr(shards, "_OPEN_SHARDS", 2)
    source = open_images(folder, labels=False)
    before = len(os.listdir("/proc/self/fd"))
    for index in (0, 8, 16, 24, 32, 1):
        source.load(index)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    copied = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copied.load(9), source.load(9))


# What goes wrong


def test_a_missing_label_is_named(tmp_path):
    write_tar(tmp_path / "a.tar", {"x.png": png(1), "x.cls": b"0", "y.png": png(2)})
    with pytest.raises(UserError, match=r"no \.cls member beside y\.png"):
        open_images(tmp_path, labels=True)
    write_tar(tmp_path / "a.tar", {"x.png": png(1), "x.cls": b"cat"})
    with pytest.raises(UserError, match="'cat', not a class number"):
        open_images(tmp_path, labels=True)


def test_missing_shards_are_counted(folder):
    with pytest.raises(UserError, match=r"s-005\.tar does not exist \(2 of 7"):
        open_images(folder / "s-{000..006}.tar", labels=False)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("s-{000,000}.tar", "names .*s-000.tar more than once"),  # every image of it would be shown twice
        ("s-{000..99999999999}.tar", "must rise, and name at most 1,000,000 shards"),
        ("s-{0..99999}{0..99999}.tar", "names more than 1,000,000 shards"),
        (f"s-{{0..{'9' * 200}}}.tar", "must rise, and name at most"),
        ("s-{004..000}.tar", "must rise"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(folder, pattern, message):
    with pytest.raises(UserError, match=message):
        open_images(str(folder / pattern), labels=False)


def test_a_shard_that_is_no_whole_tar_is_named(folder):
    path = folder / "s-001.tar"
    whole = path.read_bytes()
    for data, words in (
        (whole[:3000], "not a complete tar|is truncated inside"),
        (b"<html>", "not a complete tar"),
        (gzip.compress(whole), "uncompressed"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=words) as caught:
            open_images(folder, labels=False)
        assert "s-001.tar" in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["removed", "replaced", "a folder"])
def test_a_shard_lost_during_the_run_ends_it_in_one_line(folder, capsys, damage, workers):
    source, views = open_images(folder, labels=True), build_views("eval", image_size=32)
    lost = folder / "s-003.tar"
    lost.unlink()
    if damage == "replaced":
        write_tar(lost, {"new.png": png(7)})
    elif damage == "a folder":
        lost.mkdir()
    loader = build_loader(source, views, batch_size=5, seed=0, epochs=1, workers=workers)
    with pytest.raises(SystemExit) as ended:
        run_entry(lambda: len(list(loader)))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert str(lost) in line


def test_a_folder_called_tar_is_refused(folder):
    (folder / "s-009.tar").mkdir()
    with pytest.raises(UserError, match=r"s-009\.tar is not a complete tar file"):
        open_images(folder, labels=False)


def test_a_tar_without_images_is_refused(tmp_path):
    write_tar(tmp_path / "a.tar", {"x.txt": b"hello"})
    with pytest.raises(UserError, match="no image in"):
        open_images(tmp_path, labels=False)


def test_a_bad_image_in_a_shard_is_named_with_its_shard(tmp_path):
    write_tar(tmp_path / "a.tar", {"x.jpg": b"<html>", "y.jpg": png(1)})
    with pytest.raises(BadImage, match=r"a\.tar/x\.jpg: this is an HTML"):
        open_images(tmp_path, labels=False).load(0)


# Members that are not a plain image with its own name


def names_in(folder: Path, labels: bool = False) -> list[str]:
    source = open_images(folder, labels=labels)
    return [source.name(index).split("/", 1)[1] for index in range(len(source))]


def test_dots_in_names_are_read(tmp_path):
    names = ["22.05.png", "22.06.png", "photo.v2.png", "a.left.png", "a.right.png", "ok.png"]
    labels = {"22.05.cls": b"1", "22.06.cls": b"2", "photo.cls": b"3", "a.cls": b"4", "ok.cls": b"5"}
    write_tar(tmp_path / "s.tar", {**{name: png(9) for name in names}, **labels})
    assert names_in(tmp_path) == names
    assert open_images(tmp_path, labels=True).labels().tolist() == [1, 2, 3, 4, 4, 5]


def test_further_images_of_a_sample_are_skipped_and_said(tmp_path):
    write_tar(tmp_path / "s.tar", {"a.seg.png": png(1), "a.png": png(2), "b.png": png(3), "b.jpg": png(4)})
    source = open_images(tmp_path, labels=False)
    assert [source.name(index) for index in range(2)] == ["s.tar/a.png", "s.tar/b.png"]
    (finding,) = source.findings
    assert finding.count == 2
    assert "a.seg.png: belongs to the sample of a.png" in finding.example
    assert open_images(tmp_path, labels=False).findings == [finding], "from the index"


@pytest.mark.parametrize("name", ["a.png", "a.cls"])
def test_a_repeated_member_is_refused_by_name(name, tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for member, data in (("a.png", png(1)), ("a.cls", b"1"), ("b.png", png(2)), ("b.cls", b"0"), (name, png(3))):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(UserError, match=rf"s\.tar holds {name} twice"):
        open_images(tmp_path, labels=False)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_links_are_followed_and_dangling_ones_said(kind, tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        info = tarfile.TarInfo("x/a.png")
        info.size = len(png(7))
        tar.addfile(info, io.BytesIO(png(7)))
        for name, target in (("x/b.png", "a.png"), ("x/c.png", "gone.png")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, f"x/{target}" if kind == tarfile.LNKTYPE else target
            tar.addfile(link)
    source = open_images(tmp_path, labels=False)
    assert names_in(tmp_path) == ["x/a.png", "x/b.png"]
    assert source.load(1)[0, 0, 0] == 7
    assert "x/c.png: a link to" in source.findings[0].example


def test_what_an_archiver_leaves_behind_is_skipped(tmp_path):
    write_tar(tmp_path / "s.tar", {"./a.png": png(1), "./._a.png": b"x", "__MACOSX/a.png": b"x", "@eaDir/b.png": b"x"})
    assert names_in(tmp_path) == ["./a.png"]
    assert open_images(tmp_path, labels=False).findings[0].count == 3


def test_a_class_number_out_of_range_is_one_line(tmp_path):
    write_tar(tmp_path / "s.tar", {"a.png": png(1), "a.cls": b"999999999999"})
    with pytest.raises(UserError, match=r"a\.cls holds 999999999999; class numbers start at 0"):
        open_images(tmp_path, labels=True)


def broken_sparse(data: bytes) -> bytes:
    """The second member claims to be a sparse file whose map is not a number."""
    records = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n26 GNU.sparse.name=c.png\n25 GNU.sparse.realsize=x\n"
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    return data[:2048] + header.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0") + data[2048:]


def negative_size(data: bytes) -> bytes:
    header = bytearray(data[:512])
    header[124:136] = b"\xff" * 11 + b"\x00"  # base 256: -256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


def damaged_header(data: bytes) -> bytes:
    return data[:2048] + b"#" * 512 + data[2560:]


def joined(data: bytes) -> bytes:
    return data + data


@pytest.mark.parametrize("damage", [broken_sparse, negative_size, damaged_header, joined])
def test_a_damaged_tar_is_one_line_and_loses_nothing(damage, tmp_path):
    write_tar(tmp_path / "s.tar", {f"{name}.png": png(1).ljust(1400, b"\0") for name in "abc"})
    (tmp_path / "s.tar").write_bytes(damage((tmp_path / "s.tar").read_bytes()))
    with pytest.raises(UserError, match=r"s\.tar") as caught:
        open_images(tmp_path, labels=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "forge",
    [
        lambda a: {"offsets": a["offsets"] - 10**6},
        lambda a: {"sizes": a["sizes"] + 2**62},
        lambda a: {"labels": a["labels"][:1]},
        lambda a: {"offsets": a["offsets"].astype(np.float64)},
        lambda a: {"labels": a["labels"] + 10**12},
    ],
)
def test_a_forged_index_is_made_again(forge, folder):
    before = open_images(folder, labels=True)
    file = folder / "s-001.tar.index"
    with np.load(file) as arrays:
        contents = dict(arrays)
    with open(file, "wb") as out:
        np.savez(out, **{**contents, **forge(contents)})
    after = open_images(folder, labels=True)
    assert after.fingerprint == before.fingerprint
    assert after.load(8)[0, 0, 0] == before.load(8)[0, 0, 0]
