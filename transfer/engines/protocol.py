"""The interface of a detection engine. Data sets, evaluation, results and provenance are shared and not part of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from runtime.stop import StopSignal
    from transfer.evaluate.detections import Detections

# (finished iterations, {data set name: detections}) -> scalars for metrics.json ("bbox/AP": ...); main process only
AfterEval = Callable[[int, "Mapping[str, Detections]"], "Mapping[str, float] | None"]
# an image's id, boxes n x 4, scores n, classes n, n run-length masks or None, and keypoints n x K x 3 if there are any
ImageResult = tuple[Any, ...]
# batches of test items (``transfer.data.mapper``) -> the result of each image, in order; holds one batch at a time
DetectStream = Callable[[Iterable[Sequence[dict[str, Any]]]], Iterator[ImageResult]]


@dataclass(frozen=True)
class TrainSummary:
    """The outcome of a training run.

    ``iterations`` is the number of finished iterations in total (resumed ones included); ``seconds`` and
    ``seconds_per_iteration`` cover this process only; ``stopped`` says that a signal ended it early, resumable.
    ``peak_memory_mb`` is the device's on a GPU, the process's on a CPU. ``backbone_sha256`` is that of a frozen
    backbone, equal at the start and at the end; None where the backbone is trained.
    """

    iterations: int
    seconds: float
    seconds_per_iteration: float
    stopped: bool = False
    peak_memory_mb: float = 0.0
    backbone_sha256: str | None = None


class Engine(Protocol):
    """One way to train and run the detectors that a Detectron2-schema config describes."""

    name: str

    def versions(self) -> dict[str, str]:
        """Versions of the libraries that this engine's results depend on."""
        ...

    def check(self, cfg: Any) -> None:
        """Raise UserError naming key and engine for the first setting that this engine would not honour.

        ``train`` and ``detect`` rely on it: call it once, before them.
        """
        ...

    def train(
        self,
        cfg: Any,
        folder: Path,
        *,
        resume: bool = False,
        stop: StopSignal | None = None,
        after_eval: AfterEval | None = None,
        settings: Mapping[str, Any] | None = None,
        evaluated: Collection[int] = (),
    ) -> TrainSummary:
        """Train to SOLVER.MAX_ITER; ``folder`` gets metrics.json, model_*.pth, model_final.pth and last_checkpoint.

        ``after_eval`` is called with the detections of DATASETS.TEST every TEST.EVAL_PERIOD iterations, except at the
        last iteration: the caller evaluates model_final.pth itself. ``settings`` is stored in every checkpoint under
        ``checkpoints.SETTINGS_KEY``. ``evaluated``: iterations that need no evaluation any more; a resume makes up one
        that was interrupted. Call it on every rank of a process group.
        """
        ...

    def detect(self, cfg: Any, weights: Path, dataset: str) -> Detections:
        """Run the detector of ``weights`` over a data set; every rank gets the detections of the whole data set."""
        ...

    def open_detector(self, cfg: Any, weights: Path) -> DetectStream:
        """Load the detector of ``weights`` for images that belong to no data set; augmented if TEST.AUG.ENABLED.

        An image alone in its batch gets the detections that ``detect`` gives it, bit for bit.
        """
        ...
