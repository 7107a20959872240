"""Where the maps of frozen backbones are kept, and their removal: caches alone, whatever else is there."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.logs import get_logger
from transfer.config.protocol import CACHED

SUBFOLDER = "feature_cache"  # of OUTPUT_DIR or of a plan's output, where ENGINE.FEATURE_FOLDER names no other
MARK = "made_with.json"  # in the folder of every cache
ENTRY = "feature_folder"  # of the random states in a checkpoint
log = get_logger("run")


def cache_entry(cfg: Any) -> dict[str, str]:
    """What a checkpoint stores of the cache: ENGINE.FEATURE_FOLDER, "" for the run's own folder; {} without a cache."""
    return {ENTRY: cfg.ENGINE.FEATURE_FOLDER} if cfg.ENGINE.FEATURES == CACHED else {}


def leave_earlier_cache(cfg: Any, exact: Mapping[str, Any] | None) -> None:
    """Of a resumed run that kept its maps elsewhere until now: remove what only it could use, and say what happens.

    ``exact`` is the checkpoint's entry of random states. A named folder is for other runs too and stays.
    """
    before, now = (exact or {}).get(ENTRY), cache_entry(cfg).get(ENTRY)
    own = Path(cfg.OUTPUT_DIR) / SUBFOLDER
    old, new = (None if name is None else Path(name or own) for name in (before, now))
    if old is None or (new is not None and old.resolve() == new.resolve()):
        return
    if before == "":
        remove_caches(own)
    log.warning(
        "the maps of the frozen backbone were kept in %s until the last checkpoint (%s); from here on %s",
        old,
        "removed" if before == "" else "they stay, for other runs",
        f"ENGINE.FEATURE_FOLDER is {new}: maps that it lacks are computed again" if new else "none are kept",
    )


def remove_caches(folder: Path) -> None:
    """Delete the caches in ``folder``, and the folder itself if nothing else is in it."""
    if not folder.is_dir():
        return
    for cache in folder.iterdir():
        if (cache / MARK).is_file():
            shutil.rmtree(cache, ignore_errors=True)
    with contextlib.suppress(OSError):  # something else is in it
        folder.rmdir()
