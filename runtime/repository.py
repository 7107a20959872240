"""The folder that holds this project: a clone, or where it was installed."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
