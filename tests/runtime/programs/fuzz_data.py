"""Mutated data files and records for ``fuzz.py``: annotations, results, detections, shards and lists of images."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from pretrain.images import open_images
from pretrain.images.decode import BadImage
from runtime.errors import UserError
from runtime.repository import REPOSITORY
from transfer.data.catalog import get_dataset
from transfer.evaluate import evaluate
from transfer.evaluate.detections import Detections
from transfer.measure_gap import parse
from transfer.planning.measure import report_folder

Bytes = st.SearchStrategy[bytes]
Mutate = Callable[[bytes, list[bytes]], Bytes]
SIDE = 40  # pixels of the pictures
ODD: list[Any] = [None, True, False, -1, 0, 1, 0.5, 1e308, -1e308, 1 << 40, 1 << 70, "", "1", "x" * 300, "é", "\ud800"]
ODD += [[], {}, [[]], [0] * 5, [1e9] * 4, [[1, 1, 30]], [[1e9] * 6], {"size": [SIDE, SIDE], "counts": "04"}]
ODD += [{"size": [1 << 30, 1 << 30], "counts": [1]}, {"size": [SIDE, SIDE], "counts": [1600]}, "../../etc/passwd"]
ODD += [{"size": [SIDE, SIDE], "counts": "PPYo0"}, {"size": None, "counts": None}, [[-5.0, -5, 3, 3, 1, 0]], "\0"]


def paths_of(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value in a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    below = [path for key, child in items for path in paths_of(child, (*prefix, key))]
    return [prefix, *below] if prefix else below


def edited(base: Any) -> Bytes:
    """``base`` as JSON, with up to four of its values replaced, removed or repeated."""
    places = paths_of(base)
    edits = st.lists(st.tuples(st.sampled_from(places), st.sampled_from([*ODD, "remove", "repeat"])), max_size=4)

    def apply(chosen: list[tuple[tuple[Any, ...], Any]]) -> bytes:
        content = copy.deepcopy(base)
        for path, value in chosen:
            parent, new = content, copy.deepcopy(value)
            try:
                for key in path[:-1]:
                    parent = parent[key]
                if new == "remove":
                    del parent[path[-1]]
                elif new == "repeat":
                    parent[path[-1]] = [parent[path[-1]]] * 3
                else:
                    parent[path[-1]] = new
            except (KeyError, IndexError, TypeError):  # an earlier edit took the place away
                continue
        return json.dumps(content).encode()

    return edits.map(apply)


def labelled(lvis: bool) -> dict[str, Any]:
    """A sound annotation file of three pictures, with a polygon, a mask and a crowd."""
    images: list[dict[str, Any]] = [
        {"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE} for i in (1, 2, 3)
    ]
    categories = [{"id": i, "name": f"c{i}", "synset": f"c{i}.n.01"} for i in (1, 2)]
    objects: list[dict[str, Any]] = [
        {"id": i, "image_id": image, "category_id": 1 + i % 2, "bbox": [2, 3, 20, 10], "area": 200.0, "iscrowd": 0}
        for i, image in enumerate((1, 1, 2), 1)
    ]
    objects[0]["segmentation"] = [[2, 3, 22, 3, 22, 13, 2, 13]]
    objects[1]["segmentation"] = {"size": [SIDE, SIDE], "counts": [100, 20, 1480]}
    objects[2]["segmentation"] = [[2, 3, 22, 3, 22, 13]]
    if lvis:
        for image in images:
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": [2]}
        for category in categories:
            category |= {"frequency": "f", "image_count": 2, "instance_count": 2}
    else:
        objects[1]["iscrowd"] = 1
    return {"images": images, "annotations": objects, "categories": categories}


def pictures(folder: Path) -> None:
    """The images of ``labelled`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in (1, 2, 3):
        Image.new("RGB", (SIDE, SIDE), (number, 0, 0)).save(folder / f"{number}.png")


def found(image_ids: list[Any]) -> Detections:
    """One detection with a mask in each image."""
    size = len(image_ids)
    sound = np.zeros((SIDE, SIDE), np.uint8, order="F")
    sound[3:13, 2:22] = 1
    masks = [coco_mask.encode(sound) for _ in image_ids]
    boxes = np.tile(np.float32([2, 3, 22, 13]), (size, 1))
    numbers = np.arange(size, dtype=np.int32)
    return Detections(image_ids, numbers, numbers * 0, boxes, np.full(size, 0.5, np.float32), masks=masks)


def read_annotations(kind: str) -> Callable[[Path], None]:
    """As a training, an evaluation and --check-data do."""

    def read(path: Path) -> None:
        get_dataset.cache_clear()
        spec = get_dataset(f"{kind}:{path}:{path.parent / 'images'}")
        spec.records(masks=True)
        spec.check_image_sizes()
        detections = found(list(spec.summary.image_ids))
        evaluate(spec, Detections(**{**detections.__dict__, "masks": None}))

    return read


def json_files(lvis: bool) -> Callable[[Path, Mutate], Bytes]:
    """COCO or LVIS annotations with values or bytes changed."""

    def cases(folder: Path, mutated: Mutate) -> Bytes:
        pictures(folder / "images")
        base = labelled(lvis)
        pieces = [b'"', b"[", b"{", b"}", b",", b"9" * 400, b"1e999", b"NaN", b"-", b"\xff", b"[" * 3000]
        return st.one_of(edited(base), mutated(json.dumps(base).encode(), pieces))

    return cases


OBJECT = "<object><name>cat</name><difficult>0</difficult><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>22</xmax>"
OBJECT += "<ymax>13</ymax></bndbox></object>"
XML = f"<annotation><size><width>{SIDE}</width><height>{SIDE}</height></size>{OBJECT}{OBJECT}</annotation>"
XML_PIECES = [b"<", b">", b"</object>", b"<object>", b"&a;", b"<!DOCTYPE x [<!ENTITY a 'b'>]>", b"<![CDATA[", b"nan"]
XML_PIECES += [b"1e999", b"-5", b"", b"<name>dog</name>", b"\0", b"\xff\xfe", b"<a>" * 2000, b"9" * 5000, b"<!--"]


def devkit(folder: Path) -> Path:
    """A VOC folder of three pictures. Returns its image list."""
    year = folder / "kit" / "VOC2007"
    pictures(year / "JPEGImages")
    for sub in ("Annotations", "ImageSets/Main"):
        (year / sub).mkdir(parents=True, exist_ok=True)
    for number in (1, 2, 3):
        (year / "Annotations" / f"{number}.xml").write_text(XML)
    (year / "ImageSets" / "Main" / "train.txt").write_text("1\n2\n3\n")
    return year / "ImageSets" / "Main" / "train.txt"


def voc_objects(folder: Path, mutated: Mutate) -> Bytes:
    """One XML file changed."""
    devkit(folder)
    return mutated(XML.encode(), XML_PIECES)


def voc_lists(folder: Path, mutated: Mutate) -> Bytes:
    """The list of images changed."""
    devkit(folder)
    return mutated(b"1\n2\n3\n", [b"1", b" 1", b"-1", b"\r\n", b"../1", b"\0", b"\xff", b"/" * 5000, b"9" * 5000])


def read_voc(path: Path) -> None:
    """As a training and an evaluation do."""
    get_dataset.cache_clear()
    kit = next(parent for parent in path.parents if parent.name == "kit")
    spec = get_dataset(f"voc:{kit}:2007:train")
    spec.records()
    detections = found(list(spec.summary.image_ids))
    evaluate(spec, Detections(**{**detections.__dict__, "masks": None}))


def results(folder: Path, mutated: Mutate) -> Bytes:
    """A finished run's result.json, beside the sound run of another initialisation."""
    stored = REPOSITORY / "tests/fixtures/finished_plan/runs/demo/demo_R18_C4"
    one, other = ((stored / init / "seed0/result.json").read_bytes() for init in ("supervised", "random"))
    (folder / "runs/t/random/seed0").mkdir(parents=True)
    (folder / "runs/t/random/seed0/result.json").write_bytes(other)
    pieces = [b'"', b"[", b"{", b"NaN", b"9" * 400, b"[" * 3000]
    return st.one_of(edited(json.loads(one)), mutated(one, pieces))


def read_results(path: Path) -> None:
    """As a report on the folder does."""
    root = path.parents[3]
    args = parse([str(root), "--no-detections", "--no-examples", "--output", str(root.parent / "report")])
    with contextlib.redirect_stdout(io.StringIO()):
        report_folder(args, "fuzz")


def detections(folder: Path, mutated: Mutate) -> Bytes:
    """Stored detections with bytes or arrays changed."""
    pictures(folder / "images")
    (folder / "truth.json").write_text(json.dumps(labelled(False)))
    sound = folder / "sound.npz"
    found([1, 2, 3]).save(sound)
    with np.load(sound) as file:
        arrays = dict(file)
    shapes: list[Any] = [np.zeros(0), np.zeros((3, 3, 3)), np.full(3, np.nan), np.full(3, 1 << 40), np.array("x")]
    shapes += [
        np.full((3, 4), np.inf, np.float32),
        np.array([-1, 5, 9]),
        np.array([1, 1, 1]),
        np.array(["a", "b", "c"]),
    ]

    def changed(edits: list[tuple[str, int]]) -> bytes:
        new = {**arrays, **{name: shapes[which] for name, which in edits}}
        out = io.BytesIO()
        np.savez(out, **new)
        return out.getvalue()

    places = st.tuples(st.sampled_from(sorted(arrays)), st.integers(0, len(shapes) - 1))
    return st.one_of(
        st.lists(places, max_size=3).map(changed), mutated(sound.read_bytes(), [b"PK\x01\x02", b"\xff" * 4])
    )


def read_detections(path: Path) -> None:
    """As ``show.py`` and a report do."""
    spec = get_dataset(f"coco:{path.parent / 'truth.json'}:{path.parent / 'images'}")
    evaluate(spec, Detections.load(path).in_order_of(spec.summary.image_ids))


def png() -> bytes:
    """A picture."""
    out = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(out, "PNG")
    return out.getvalue()


def shards(folder: Path, mutated: Mutate) -> Bytes:
    """A shard of two samples, changed."""
    base = io.BytesIO()
    with tarfile.open(fileobj=base, mode="w") as tar:
        for name, content in (("a.png", png()), ("a.cls", b"0"), ("b.png", png()), ("b.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    pieces = [b"\0" * 12, b"7" * 11, b"ustar", b"L", b"x", b"\x80" + b"\xff" * 11, b"1", b"2", b"../" * 9]
    return mutated(base.getvalue()[:8192], pieces)


def lists(folder: Path, mutated: Mutate) -> Bytes:
    """A list of images with classes, changed."""
    pictures(folder)
    pieces = [b"\t", b"\n", b"\r", b"#", b"\0", b"\xff", b"../", b"/dev/zero", b".", b" ", b"9" * 5000, b"\xef\xbb\xbf"]
    return mutated(b"1.png\tcat\n2.png\tdog\n3.png\tcat\n", pieces)


def read_images(path: Path) -> None:
    """As pretraining and the probes do."""
    for labels in (False, True):
        try:
            source = open_images(path, labels=labels)
        except UserError:
            continue
        for index in range(len(source)):
            try:
                source.load(index)
            except BadImage:  # what the loader replaces and names
                continue


DataKind = tuple[Callable[[Path, Mutate], Bytes], str, Callable[[Path], object]]
DATA_KINDS: dict[str, DataKind] = {
    "coco": (json_files(False), "a.json", read_annotations("coco")),
    "lvis": (json_files(True), "a.json", read_annotations("lvis")),
    "voc": (voc_objects, "kit/VOC2007/Annotations/2.xml", read_voc),
    "voc-lists": (voc_lists, "kit/VOC2007/ImageSets/Main/train.txt", read_voc),
    "results": (results, "runs/t/supervised/seed0/result.json", read_results),
    "detections": (detections, "d.npz", read_detections),
    "shards": (shards, "s.tar", read_images),
    "lists": (lists, "l.txt", read_images),
}
