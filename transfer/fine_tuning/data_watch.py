"""Data that change under a run: noticed before a number is recorded as if it had been made on them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runtime.atomic import sha256_file
from runtime.errors import UserError
from runtime.findings import Finding
from runtime.logs import get_logger
from transfer.data.catalog import DatasetSpec

log = get_logger("run")


class DataWatch:
    """What the data sets and the files of proposals of a run were when it began.

    An evaluation reads the annotations and the proposals of its set again, and every step the files of its images; the
    digests in result.json are those of the start.
    """

    def __init__(self, datasets: Iterable[DatasetSpec], proposals: Iterable[str] = ()) -> None:
        self.began = time.time_ns()
        self.digests = {spec: spec.sha256() for spec in dict.fromkeys(datasets)}
        for spec in self.digests:
            if sample := sampled(spec):
                log.info("data set %s: %s are watched for changes during the run", spec.name, sample)
        self.proposals = {file: sha256_file(file) for file in dict.fromkeys(proposals)}

    def check(self) -> None:
        """Raise UserError naming annotations or proposals that are no longer those that the run began with."""
        for file, digest in self.proposals.items():
            now = sha256_file(file) if Path(file).is_file() else None
            if now != digest:
                raise UserError(
                    f"proposals {file}: the file was {'removed' if now is None else 'replaced'} during the run; no "
                    "number is recorded. Restore it and continue with --resume, or begin a new run on the new one"
                )
        for spec, digest in self.digests.items():
            try:
                now = spec.sha256(fresh=True)
            except OSError as error:  # one of VOC's many files
                raise UserError(
                    f"data set {spec.name}: its annotations were removed during the run ({error})"
                ) from error
            if now != digest:
                raise UserError(
                    f"data set {spec.name}: its annotations were replaced during the run ({spec.annotations}); no "
                    "number is recorded. Restore them and continue with --resume, or begin a new run on the new ones"
                )

    def findings(self) -> list[dict[str, Any]]:
        """Images whose files were changed, replaced or removed since the run began, as entries of result.json.

        Of a large set, a sample is looked at (``transfer.data.labels.Summary.watched``), and the entry says so.
        """
        found = []
        for spec in self.digests:
            changed = [name for name in spec.summary.watched if _changed_at(name) > self.began]
            if changed:
                sample = sampled(spec)
                message = (
                    "the run saw the old file, the new one or both, and its number may be of neither; run it again"
                    + (f" ({sample} were looked at)" if sample else "")
                )
                finding = Finding("image file changed during the run", len(changed), str(changed[0]), message)
                found.append({"dataset": spec.name, **finding.as_record()})
        return found


def sampled(spec: DatasetSpec) -> str:
    """``N of M images`` where a run watches a sample of a set only; "" where it watches all of its images."""
    watched, images = len(spec.summary.watched), len(spec.summary.image_ids)
    return f"{watched} of {images} images" if watched < images else ""


def _changed_at(name: str) -> float:
    """When a file was last written or put in its place, ns; infinity for one that is gone."""
    try:
        return os.stat(name).st_ctime_ns
    except OSError:
        return float("inf")
