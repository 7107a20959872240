"""The settings that decide a run's result: stored with its checkpoints, and compared when it is resumed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from runtime.errors import UserError, suggestion


def changed_settings(
    saved: Mapping[str, Any],
    current: Mapping[str, Any],
    allowed: Collection[str],
    checkpoint: Path,
    explanations: Mapping[str, str] | None = None,
) -> dict[str, list[Any]]:
    """Compare the settings of this run with those that ``checkpoint`` was made with.

    Returns the allowed differences as {key: [before, now]}. Raises UserError naming every other difference, and for a
    key in ``allowed`` that is not a setting, which could only be a misspelling. ``explanations``: key -> words in the
    place of values that say nothing.
    """
    known = saved.keys() | current.keys()
    if unknown := [key for key in allowed if key not in known]:
        hint = suggestion(unknown[0], sorted(known))
        raise UserError(f"--allow-change {unknown[0]}: not a setting that decides a result{hint}")
    changed = {key: [saved.get(key), current.get(key)] for key in sorted(known) if saved.get(key) != current.get(key)}
    refused = {key: values for key, values in changed.items() if key not in allowed}
    if refused:
        words = explanations or {}
        differences = "; ".join(
            f"{key}: {words[key]}" if key in words else f"{key} was {before}, is {now}"
            for key, (before, now) in refused.items()
        )
        flags = " ".join(f"--allow-change {key}" for key in refused)
        raise UserError(f"{checkpoint} was made with other settings: {differences}. Restore them, or add {flags}")
    return changed
