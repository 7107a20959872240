"""Precomputed proposals (Fast R-CNN): from a file of this project or of Detectron2 to the records of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convert.safe_pickle import Expected, PickledArray, load_pickle
from runtime.errors import UserError
from runtime.listing import listed
from transfer.data.box_modes import XYWH, XYXY
from transfer.data.labels import EXAMPLES, Record
from transfer.evaluate.detections import Detections

# Detectron's names -> Detectron2's
OLDER = {"indexes": "ids", "scores": "objectness_logits"}
REMEDY = "make it again: train_net.py --eval-only of the proposal network writes evaluation_0.npz"
Proposals = tuple[np.ndarray, np.ndarray]  # boxes P x 4 (x0 y0 x1 y1) in pixels of the image and logits P, best first


def with_proposals(records: Sequence[Record], path: str | Path) -> list[Record]:
    """Copies of ``records``, each with ``proposals``: those of its image in the file ``path``.

    Raises UserError for an unreadable file, and where an image has no entry in it.
    """
    found = read_proposals(path, [record["image_id"] for record in records])
    return [{**record, "proposals": found[str(record["image_id"])]} for record in records]


def read_proposals(path: str | Path, image_ids: Sequence[Any] = ()) -> dict[str, Proposals]:
    """The proposals of each image, by its id as text; UserError where one of ``image_ids`` has none.

    ``path``: detections_0.npz or evaluation_0.npz of a run of a region proposal network alone, or a box_proposals.pkl
    of Detectron2 (or of Detectron, with its names), which is read without executing anything in it.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(
            f"{path}: no such file of proposals; correct DATASETS.PROPOSAL_FILES_TRAIN or _TEST, or {REMEDY}"
        )
    parts = _of_run(file) if file.suffix == ".npz" else _of_pickle(file)
    found: dict[str, Proposals] = {}
    for image_id, boxes, logits in parts:
        if image_id in found:
            raise UserError(f"{path}: image {image_id} is listed twice; keep one of the entries")
        found[image_id] = _sorted(file, image_id, boxes, logits)
    if not any(len(logits) for _, logits in found.values()):
        raise UserError(f"{path}: no image has a proposal; nothing could be trained on or found with it")
    if missing := [image_id for image_id in image_ids if str(image_id) not in found]:
        raise UserError(
            f"{path} has no proposals for {len(missing)} of {len(image_ids)} images ({listed(missing, EXAMPLES)}); "
            "give the file that was made for this data set"
        )
    return found


def _of_run(file: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    try:
        stored = Detections.read(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not a readable file of proposals ({error}); {REMEDY}") from error
    if not stored.are_proposals:
        raise UserError(
            f"{file} holds detections, not proposals; train a config with MODEL.META_ARCHITECTURE ProposalNetwork"
        )
    order = np.argsort(stored.image_index, kind="stable")
    ends = np.cumsum(np.bincount(stored.image_index, minlength=len(stored.image_ids)))[:-1]
    for image_id, rows in zip(stored.image_ids, np.split(order, ends)):
        yield str(image_id), stored.boxes[rows], stored.scores[rows]


def _of_pickle(file: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    try:
        with open(file, "rb") as stream:
            content = load_pickle(stream, expected=Expected("a file of proposals", ""))
    except OSError as error:
        raise UserError(f"{file}: not a readable file of proposals ({error.strerror}); {REMEDY}") from error
    except UserError as error:
        raise UserError(f"{file}: not a file of proposals: {error}; {REMEDY}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{file}: not a file of proposals: its pickle holds no dict; {REMEDY}")
    named = {OLDER.get(key, key): value for key, value in content.items()}
    lists = [_list(named.get(key)) for key in ("ids", "boxes", "objectness_logits")]
    if any(part is None for part in lists) or len({len(part or ()) for part in lists}) != 1:
        raise UserError(f"{file}: a file of proposals has lists ids, boxes and objectness_logits of one length")
    mode = named.get("bbox_mode", XYXY)
    if mode not in (XYXY, XYWH):
        raise UserError(f"{file}: bbox_mode must be {XYXY} (x0 y0 x1 y1) or {XYWH} (x0 y0 width height)")
    for image_id, boxes, logits in zip(*(part or () for part in lists)):
        own = _array(boxes)
        if mode == XYWH and own.ndim == 2 and own.shape[1:] == (4,):
            own = np.concatenate([own[:, :2], own[:, :2] + own[:, 2:]], axis=1)
        yield str(image_id), own, _array(logits)


def _list(value: Any) -> list[Any] | None:
    if isinstance(value, PickledArray) and isinstance(value.content, np.ndarray):
        value = value.content.tolist()
    return value if isinstance(value, list) else None


def _array(value: Any) -> np.ndarray:
    """A pickled array as floats of this machine's byte order; anything else as an array without dimensions."""
    content = value.content if isinstance(value, PickledArray) else None
    if not isinstance(content, np.ndarray):
        return np.zeros(())
    return content.astype(content.dtype.newbyteorder("=") if content.dtype.kind == "f" else np.float64)


def _sorted(file: Path, image_id: str, boxes: np.ndarray, logits: np.ndarray) -> Proposals:
    """Best first, in the order that numpy gives to equal logits, which Detectron2 relies on."""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or logits.shape != boxes.shape[:1]:
        raise UserError(f"{file}: the proposals of image {image_id} are not boxes P x 4 and logits P")
    with np.errstate(over="ignore"):
        finite = all(np.isfinite(values.astype(np.float32)).all() for values in (boxes, logits))
    if not finite:
        raise UserError(f"{file}: a box or logit of image {image_id} is not a finite number in float32")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise UserError(f"{file}: a box of image {image_id} ends before it begins; is its bbox_mode right?")
    order = logits.argsort()[::-1]
    return boxes[order], logits[order]
