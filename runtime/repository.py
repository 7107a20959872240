"""Where this project's files lie: a clone, or the folder it was installed into."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
