"""What a prediction leaves: COCO results, the images that they are of, pictures, and lines of JSON."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from runtime.atomic import atomic_path
from transfer.prediction.detected_image import DetectedImage

RESULTS, IMAGES, PICTURES = "coco_results.json", "images.json", "pictures"
AHEAD = 4  # images whose picture may wait to be drawn


class JsonList:
    """A JSON list that is written entry by entry, and never held in memory."""

    def __init__(self, file: IO[str], head: str = "[", tail: str = "]") -> None:
        self._file, self._tail, self._first = file, tail, True
        file.write(head)

    def add(self, entry: Any) -> None:
        """Append an entry."""
        self._file.write(("\n" if self._first else ",\n") + json.dumps(entry))
        self._first = False

    def close(self) -> None:
        """End the list."""
        self._file.write(f"\n{self._tail}\n")


class ResultsFolder:
    """``with ResultsFolder(...) as folder:`` writes files of a folder as detections arrive; whole, or not at all.

    coco_results.json: the detections of all images as COCO results, with masks where there are any, boxes as x y width
    height. images.json: id, file, width and height of every image, and the categories, in COCO's form.
    """

    def __init__(self, folder: Path, category_ids: Sequence[Any], categories: Sequence[Mapping[str, Any]]) -> None:
        self.folder, self._ids, self._categories = folder, category_ids, categories

    def __enter__(self) -> ResultsFolder:
        with contextlib.ExitStack() as stack:
            self._results = JsonList(self._open(stack, RESULTS))
            tail = f'], "categories": {json.dumps(list(self._categories))}}}'
            self._images = JsonList(self._open(stack, IMAGES), '{"images": [', tail)
            self._stack = stack.pop_all()
        return self

    def _open(self, stack: contextlib.ExitStack, name: str) -> IO[str]:
        partial = stack.enter_context(atomic_path(self.folder / name))
        return stack.enter_context(open(partial, "w", encoding="utf-8"))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is None:
            self._results.close()
            self._images.close()
        self._stack.__exit__(kind, error, tb)

    def add(self, found: DetectedImage) -> None:
        """Write the detections of one image."""
        size = {"width": found.width, "height": found.height}
        self._images.add({"id": found.image_id, "file_name": found.file, **size})
        for row in result_rows(found, self._ids):
            self._results.add(row)


def result_rows(found: DetectedImage, category_ids: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """COCO result entries, equal to those that an evaluation scores; masks and keypoints are in the same entry."""
    from transfer.data.run_lengths import counts_of
    from transfer.evaluate.coco_ap import coco_results
    from transfer.evaluate.detections import Detections
    from transfer.evaluate.keypoint_ap import keypoint_results

    points = [] if found.keypoints is None else [found.keypoints]
    detections = Detections.from_images([(found.image_id, found.boxes, found.scores, found.classes, None, *points)])
    counts = counts_of(found.runs) if found.runs is not None else []
    rows = keypoint_results(detections, category_ids) if points else coco_results(detections, category_ids, "bbox")
    for k, row in enumerate(rows):
        if found.runs is not None:
            size = list(map(int, found.runs[k]["size"]))
            row["segmentation"] = {"size": size, "counts": counts[k].decode("ascii")}
        yield row


def json_line(found: DetectedImage, category_ids: Sequence[Any]) -> str:
    """One image as one line of JSON; ``box`` has the corners x0 y0 x1 y1."""
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), found.names)
    detections = [
        {"class": name, "category_id": category_ids[index], "score": score, "box": box}
        for box, score, index, name in rows
    ]
    head = {"file": found.file, "image_id": found.image_id, "width": found.width, "height": found.height}
    return json.dumps({**head, "detections": detections})


class PictureQueue:
    """``with PictureQueue() as pictures:`` draws and saves in a thread, while the network sees the next images.

    ``add`` waits while ``AHEAD`` pictures are not finished, so that memory does not grow where drawing is slower. What
    goes wrong with a picture is raised by a later ``add`` or at the end, which waits for all of them; after an error in
    the block, those that wait are left out.
    """

    def __enter__(self) -> PictureQueue:
        self._thread, self._pending = ThreadPoolExecutor(1), deque[Future[None]]()
        return self

    def add(self, found: DetectedImage, path: Path) -> None:
        """Draw the detections on their image and save it as ``path``, soon."""
        while len(self._pending) >= AHEAD:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(save_picture, found, path))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            while self._pending and error is None:
                self._pending.popleft().result()
        finally:
            self._thread.shutdown(cancel_futures=True)


def save_picture(found: DetectedImage, path: Path) -> None:
    """Draw the detections on their image, read again from its file, and save it as JPEG."""
    from PIL import Image

    from transfer.data.mapper import read_image

    assert found.file is not None
    image = Image.fromarray(read_image(found.file, "RGB"))
    with atomic_path(path) as partial:
        found.draw(image).save(partial, format="JPEG", quality=90)
