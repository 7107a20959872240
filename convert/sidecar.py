"""The JSON file beside every backbone file: its source, what was verified, and the config it needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convert.backbone import Backbone
from convert.rename import COUNTER
from runtime.version import __version__

SCHEMA = 1


def sidecar(backbone: Backbone, files: Mapping[str, str]) -> dict[str, Any]:
    """The sidecar's content; ``files`` maps each written file's name to its sha256 or quick fingerprint."""
    return {
        "schema": SCHEMA,
        "family": backbone.family,
        "encoder": backbone.encoder,
        "arch": backbone.architecture.name,
        "source": {"file": backbone.source.name, "sha256": backbone.source_sha256},
        "files": dict(files),
        "tool": {"version": __version__},
        "coverage": {
            "backbone_tensors": backbone.coverage.backbone_tensors,
            "set": backbone.coverage.set,
            "dropped": list(backbone.coverage.dropped),
        },
        "max_abs_diff": dict(backbone.max_abs_diff) if backbone.max_abs_diff is not None else None,
        "config": backbone.config,
        "notes": list(backbone.notes),
    }


def report(backbone: Backbone) -> str:
    """The summary for the user: what was recognised, tensors per stage, the verification, the config it needs."""
    stages: dict[str, int] = {}
    network = backbone.architecture
    for name in backbone.tensors:
        if not name.endswith(COUNTER):
            stage = network.stage_of(name.removeprefix(network.prefix))
            stages[stage] = stages.get(stage, 0) + 1
    coverage, difference = backbone.coverage, backbone.max_abs_diff
    wide = max(8, *(len(stage) + 1 for stage in stages))
    rows = [f"{s:{wide}}{n:8}   {'not checked' if difference is None else difference[s]}" for s, n in stages.items()]
    needs = " ".join(f"{key} {str(value).replace(' ', '')}" for key, value in backbone.config.items())
    encoder = "" if backbone.encoder == "encoder" else f", {backbone.encoder} encoder"  # the only one has no name
    return "\n".join(
        [
            f"{backbone.source.name}: {network.name}, {backbone.family} family{encoder}",
            f"{'stage':{wide}}{'tensors':>8}   max |diff|",
            *rows,
            f"{'total':{wide}}{coverage.set:8}   of {coverage.backbone_tensors}; "
            f"{len(coverage.dropped)} others left behind",
            f"needs: {needs}",
            *(f"note: {note}" for note in backbone.notes),
        ]
    )


def config_yaml(backbone: Backbone, weights: str) -> str:
    """A Detectron2 YAML fragment that sets ``weights`` and every key that these weights need."""
    tree: dict[str, Any] = {}
    for key, value in {"MODEL.WEIGHTS": weights, **backbone.config}.items():
        *sections, leaf = key.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[leaf] = value
    return "\n".join(_lines(tree, 0)) + "\n"


def _lines(tree: Mapping[str, Any], depth: int) -> list[str]:
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += [f"{'  ' * depth}{key}:", *_lines(value, depth + 1)]
        else:
            text = f'"{value}"' if isinstance(value, str) else str(value)
            lines.append(f"{'  ' * depth}{key}: {text}")
    return lines
