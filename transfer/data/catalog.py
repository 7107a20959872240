"""Names of data sets -> their files, content and metric.

Built-in names (``coco_2017_train``, ``voc_2007_trainval``, ``lvis_v0.5_val`` ...) are looked up in Detectron2's layout
below ``$DETECTRON2_DATASETS`` (default ``./datasets``). Own data needs no code:

* ``coco:ANNOTATIONS.json:IMAGE_DIR``; ``coco:DIR``, where DIR holds the images and their json file
* ``voc:DEVKIT_DIR:YEAR:SPLIT``; ``voc:DIR`` and ``voc:DIR:SPLIT`` for the same folders without VOC<year> above them
* ``lvis:ANNOTATIONS.json:ROOT``
* ``cityscapes:GTFINE_DIR:LEFTIMG8BIT_DIR``, each with a folder for every city

``NAME@P%`` is a fixed share of any of them (``coco_2017_train@10%``; ``@10%s3`` draws it with seed 3): the shares of
one seed are nested.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.atomic import sha256_file
from runtime.errors import UserError
from transfer.data.built_in import FILE_SETS, FORMS, LAYOUTS, NAMES, OWN_FORMS, VOC_SETS
from transfer.data.cityscapes import city_files, read_cityscapes
from transfer.data.coco import load_json, read_coco
from transfer.data.coco_annotations import keep_drawable
from transfer.data.folders import NO_YOLO, coco_export, refuse_yolo, voc_folders
from transfer.data.labels import UNUSABLE_MASK, Labels, Record, Summary, check_image_sizes
from transfer.data.lvis import read_lvis
from transfer.data.splitting import shuffled, size_of
from transfer.data.voc import VOC_CLASSES, listed_images, read_voc

# data sets up to this many images stay in memory: validation sets, which are needed again at every evaluation
KEPT_IMAGES = 10_000
SHARE = re.compile(r"(?P<whole>.+)@(?P<percent>\d+(?:\.\d+)?)%(?:s(?P<seed>\d+))?")


@dataclass(frozen=True)
class DatasetSpec:
    """One data set: ``kind`` (coco, voc, lvis or cityscapes) and where its labels and images are.

    ``annotations``: the json file; for VOC the folder VOC<year>, or one with its folders; for Cityscapes that of the
    cities. ``images``: the folder of the images (LVIS: above it; Cityscapes: of the cities). ``split`` ("" for all
    images) and ``year`` (0 without) are VOC's. ``percent`` < 100 keeps a nested random share drawn with ``share_seed``.
    """

    name: str
    kind: str
    annotations: Path
    images: Path
    year: int = 0
    split: str = ""
    percent: float = 100.0
    share_seed: int = 0

    @functools.cached_property
    def _cache(self) -> list[Labels]:
        return []  # at most one entry: labels that were read and not handed over yet

    def _read(self) -> Labels:
        self.require()
        labels = READERS[self.kind](self)
        if not labels.records:
            raise UserError(f"data set {self.name} has no image")
        return labels

    @functools.cached_property
    def summary(self) -> Summary:
        """Class names, findings, image ids; read once. Raises UserError when the data set is missing or broken."""
        return Summary.of(self._labels())

    def _labels(self) -> Labels:
        if not self._cache:
            self._cache.append(self._read())
        return self._cache[0]

    def check_image_sizes(self) -> None:
        """Raise UserError when images differ in size from their annotations; checks a sample of a few hundred."""
        check_image_sizes(self._labels().records, self.name)

    def records(self, *, masks: bool = False) -> list[Record]:
        """One dict per image in Detectron2's form, in the order of the image ids (VOC: of the image list).

        ``masks``: for a detector with masks; annotations whose mask is unusable are left out, as in Detectron2.
        Records of more than ``KEPT_IMAGES`` images are not kept here: their memory is free when the caller drops them,
        and another call reads the file again. Raises UserError as ``summary`` does.
        """
        known = len(self.summary.image_ids)
        labels = self._cache.pop() if self._cache else self._read()
        if known <= KEPT_IMAGES:
            self._cache.append(labels)
        return _drawable(labels.records) if masks and self.summary.without_mask else labels.records

    @property
    def class_names(self) -> list[str]:
        """Names in the order of the contiguous category ids."""
        return self.summary.class_names

    @property
    def category_ids(self) -> list[int]:
        """Contiguous category id -> id in the annotation file."""
        return self.summary.category_ids

    @property
    def evaluator(self) -> str:
        """The metric that the data set is published with: ``coco``, ``voc``, ``lvis`` or ``cityscapes``."""
        return self.kind

    def require(self) -> None:
        """Raise UserError unless annotations and images exist: of a built-in set it names the layout and the demo, of
        an own one the form of its name.
        """
        required = [self.annotations, self.images]
        if self.kind == "voc":
            places = voc_folders(self.annotations)
            lists = [places.lists / f"{self.split}.txt"] if self.split else []
            required = [*lists, places.annotations, self.images]
        absent = [str(path) for path in required if not path.exists()]
        if absent:
            what = f"data set {self.name} is not there: {' and '.join(absent)} not found"
            if ":" in self.name:
                raise UserError(
                    f"{what}; correct the path (relative ones start from {Path.cwd()}) in {OWN_FORMS[self.kind]}"
                )
            raise UserError(
                f"{what}. Expected layout: {LAYOUTS[self.kind]}, below $DETECTRON2_DATASETS (now {data_root()}). "
                "To try everything on generated data instead, run: make demo"
            )

    def content(self, *, masks: bool = False) -> dict[str, Any]:
        """The parsed annotation file (COCO and LVIS), reduced to the images of the share, for evaluators.

        ``masks``: for a detector with masks, as in ``records``. A missing area becomes the area of the box, a missing
        iscrowd 0; custom data often lack both.
        """
        self.require()
        content = load_json(self.annotations, self.name)
        if masks:
            content["annotations"] = list(filter(keep_drawable, content["annotations"]))
        for annotation in content["annotations"]:
            if annotation.get("area") is None:
                annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
            annotation.setdefault("iscrowd", 0)
        if self.percent < 100:
            keep = set(self.summary.image_ids)
            content["images"] = [i for i in content["images"] if i["id"] in keep]
            content["annotations"] = [a for a in content["annotations"] if a["image_id"] in keep]
        return content

    def sha256(self, *, fresh: bool = False) -> str:
        """Digest of the annotations and, for a share, of how it was drawn; images are not included.

        ``fresh``: read them again now, where a digest of this process would be taken otherwise.
        """
        self.require()
        if self.kind == "voc":
            return (_sha256_of_voc.__wrapped__ if fresh else _sha256_of_voc)(self.annotations, self.split)
        path = self.annotations
        if self.kind == "cityscapes":
            of_cities = _sha256_of_cities.__wrapped__ if fresh else _sha256_of_cities
            digest = of_cities(path, self.images, self.name)
        else:
            digest = sha256_file(path) if fresh else _sha256_of_json(str(path), path.stat().st_mtime_ns)
        if self.percent < 100:
            return hashlib.sha256(f"{digest} {self.percent:g}% seed {self.share_seed}".encode()).hexdigest()
        return digest


def data_root() -> Path:
    """``$DETECTRON2_DATASETS``, default ``./datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


@functools.cache
def get_dataset(name: str) -> DatasetSpec:
    """The data set of a name; nothing is read yet. Raises UserError for an unknown name."""
    if share := SHARE.fullmatch(name):
        percent = float(share["percent"])
        if not 0 < percent < 100:
            raise UserError(f"data set {name}: the share must be above 0 and below 100 %")
        whole = get_dataset(share["whole"])
        if whole.kind == "voc":
            raise UserError(f"data set {name}: shares of VOC are not drawn by name; write a split file")
        return DatasetSpec(
            name, whole.kind, whole.annotations, whole.images, percent=percent, share_seed=int(share["seed"] or 0)
        )
    prefix, *rest = name.split(":")
    if rest:
        return _own_dataset(name, prefix, rest)
    for kind, table in FILE_SETS.items():
        if name in table:
            annotations, images = table[name]
            return DatasetSpec(name, kind, data_root() / annotations, data_root() / images)
    if name in VOC_SETS:
        year, split = VOC_SETS[name]
        folder = data_root() / f"VOC{year}"
        return DatasetSpec(name, "voc", folder, folder / "JPEGImages", year, split)
    raise UserError(f"unknown data set {name}; custom data is {FORMS}; built-in names: {', '.join(NAMES)}")


def _own_dataset(name: str, prefix: str, parts: list[str]) -> DatasetSpec:
    folder = Path(parts[0]).expanduser()
    if prefix in FILE_SETS and len(parts) == 2 and all(parts):
        return DatasetSpec(name, prefix, folder, Path(parts[1]).expanduser())
    if prefix == "coco" and all(parts) and folder.suffix.lower() != ".json":
        return DatasetSpec(name, prefix, coco_export(folder, name), folder)
    if prefix == "voc" and len(parts) == 3 and parts[1].isdigit() and all(parts):
        folder /= f"VOC{parts[1]}"
        return DatasetSpec(name, "voc", folder, folder / "JPEGImages", int(parts[1]), parts[2])
    if prefix == "voc" and len(parts) < 3 and all(parts):
        refuse_yolo(folder, name)
        return DatasetSpec(name, "voc", folder, voc_folders(folder).images, split="".join(parts[1:]))
    if prefix == "yolo":
        raise UserError(f"data set {name}: {NO_YOLO}")
    raise UserError(f"data set {name}: write {FORMS}")


def _read_files(spec: DatasetSpec) -> Labels:
    reader = {"coco": read_coco, "lvis": read_lvis, "cityscapes": read_cityscapes}[spec.kind]
    subset = _share(spec) if spec.percent < 100 else None
    return reader(spec.annotations, spec.images, name=spec.name, subset=subset)


def _share(spec: DatasetSpec) -> set[Any]:
    if spec.kind == "cityscapes":
        ids = sorted(files.image.name for files in city_files(spec.annotations, spec.images, spec.name)[0])
    else:
        ids = sorted(image["id"] for image in load_json(spec.annotations, spec.name)["images"])
    size = size_of(len(ids), spec.percent / 100, f"data set {spec.name}")
    return {ids[i] for i in shuffled(len(ids), spec.share_seed)[:size]}


def _read_voc(spec: DatasetSpec) -> Labels:
    official = list(VOC_CLASSES) if spec.name in VOC_SETS else None
    return read_voc(spec.annotations, spec.split, official, name=spec.name)


def _drawable(records: list[Record]) -> list[Record]:
    return [
        {**record, "annotations": [a for a in record["annotations"] if UNUSABLE_MASK not in a]} for record in records
    ]


READERS = {"coco": _read_files, "lvis": _read_files, "cityscapes": _read_files, "voc": _read_voc}


@functools.cache
def _sha256_of_json(path: str, modified_ns: int) -> str:
    return sha256_file(path)


@functools.cache
def _sha256_of_voc(folder: Path, split: str) -> str:
    places = voc_folders(folder)
    ids = listed_images(folder, split)[0]
    digest = hashlib.sha256((places.lists / f"{split}.txt").read_bytes() if split else "\n".join(ids).encode())
    for image_id in ids:
        digest.update((places.annotations / f"{image_id}.xml").read_bytes())
    return digest.hexdigest()


@functools.cache
def _sha256_of_cities(annotations: Path, images: Path, name: str) -> str:
    digest = hashlib.sha256()
    for files in city_files(annotations, images, name)[0]:
        for path in (files.polygons, files.instances):
            digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()
