"""What the owner of a run should know about its data before its numbers are read: logged, and kept with the run."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from pretrain.images import open_images
from pretrain.images.inspection import inspect_pixels, shared_images
from pretrain.images.source import ImageSource
from pretrain.methods.row import Sizes
from pretrain.settings.values import Settings
from pretrain.training.knn_monitor import probe_images
from runtime.atomic import write_json
from runtime.errors import UserError
from runtime.findings import Finding
from runtime.logs import get_logger

log = get_logger("pretrain")
FINDINGS_FILE = "findings.json"


def collect(settings: Settings, source: ImageSource, sizes: Sizes) -> list[Finding]:
    """The findings of a run: files that are not read, unusual pixels, images shared with the probe, sizes."""
    findings = [*source.findings, *inspect_pixels(source)]
    if settings.row.advise is not None:
        findings += settings.row.advise(settings.model, settings.options, sizes)
    val = probe_images(settings)
    if val is not None and val.exists():
        with contextlib.suppress(UserError):  # the monitor says why there is no probe
            findings += shared_images(source, open_images(val, labels=False, split=None))
    return findings


def changed_since(source: ImageSource, settings: Settings) -> list[Finding]:
    """A finding where the images are no longer those that ``source`` listed when the run began.

    A run reads its files as it goes, and a checkpoint names the images of the beginning. A cache holds its pixels.
    """
    if settings.data.cache is not None:
        return []
    try:
        now = open_images(settings.data.data, labels=settings.row.labels)
        changed = (now.fingerprint, now.times_fingerprint) != (source.fingerprint, source.times_fingerprint)
        example = settings.data.data
    except UserError as error:
        changed, example = True, str(error)
    message = "files were added, removed, replaced or copied: the run saw some of both, and is of neither; run it again"
    return [Finding("images changed during the run", 1, example, message)] if changed else []


def report(findings: Sequence[Finding], folder: Path) -> None:
    """Log the findings, and write them to findings.json in the run folder; without any, that holds an empty list."""
    for finding in findings:
        log.warning("finding: %s", finding.line())
    write_json(folder / FINDINGS_FILE, [finding.as_record() for finding in findings])
