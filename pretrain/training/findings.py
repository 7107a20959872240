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


def report(findings: Sequence[Finding], folder: Path) -> None:
    """Log the findings, and write them to findings.json in the run folder; without any, that holds an empty list."""
    for finding in findings:
        log.warning("finding: %s", finding.line())
    write_json(folder / FINDINGS_FILE, [finding.as_record() for finding in findings])
