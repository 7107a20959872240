"""Findings of a run's data sets: those of each set, and those of training and test sets together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.findings import Finding
from transfer.data.catalog import DatasetSpec
from transfer.data.findings import shared_images


def named_findings(train: Sequence[DatasetSpec], test: Sequence[DatasetSpec]) -> list[tuple[str, Finding]]:
    """(data set, finding), training sets first. Raises UserError when a set is missing or broken."""
    sets = dict.fromkeys((*train, *test))
    findings = [(spec.name, finding) for spec in sets for finding in spec.summary.findings]
    for tested in dict.fromkeys(test):
        for trained in dict.fromkeys(train):
            shared = shared_images(tested.name, tested.summary, trained.name, trained.summary)
            findings += [(tested.name, finding) for finding in shared]
    return findings


def finding_records(train: Sequence[DatasetSpec], test: Sequence[DatasetSpec]) -> list[dict[str, Any]]:
    """``named_findings`` in JSON form, as stored in result.json: ``dataset`` and the fields of a finding."""
    return [{"dataset": name, **finding.as_record()} for name, finding in named_findings(train, test)]
