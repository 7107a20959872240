"""Where the maps of frozen backbones are kept, and their removal: caches alone, whatever else is there."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

SUBFOLDER = "feature_cache"  # of OUTPUT_DIR or of a plan's output, where ENGINE.FEATURE_FOLDER names no other
MARK = "made_with.json"  # in the folder of every cache


def remove_caches(folder: Path) -> None:
    """Delete the caches in ``folder``, and the folder itself if nothing else is in it."""
    if not folder.is_dir():
        return
    for cache in folder.iterdir():
        if (cache / MARK).is_file():
            shutil.rmtree(cache, ignore_errors=True)
    with contextlib.suppress(OSError):  # something else is in it
        folder.rmdir()
