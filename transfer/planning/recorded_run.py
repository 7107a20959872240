"""Is a finished run the one that its stage describes? Compared with its result.json, whatever the stage's record says.

The record of a stage says which command was run. It does not say what the config file of the command contained, nor
which data lay at its paths, and a folder that was copied to this place has no record at all.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import UserError
from runtime.listing import listed
from transfer.config import explicit_keys, flatten, load_config, resolve_config
from transfer.data.catalog import get_dataset
from transfer.planning.stage import Stage
from transfer.records.deciding_settings import FREE_KEYS

OF_THE_RUN = ("SEED", "OUTPUT_DIR")  # overrides in which equal runs differ


def contradictions(stage: Stage, result: Mapping[str, Any]) -> str:
    """What the result of a training says that differs from its stage: initialisation, engine, settings, data.

    ``KEY was X, is Y; ...``, or "" if nothing differs. What cannot be read now (a config or data that are gone) and
    what an earlier version did not record is not compared.
    """
    flags, opts = split_command(stage.command())
    pairs = {
        "initialisation": (_part(result, "init").get("name"), flags.get("--init-name")),
        "engine": (_part(result, "engine").get("name"), flags.get("--engine")),
    }
    recorded = _part(_part(result, "config"), "flat")
    pairs |= {key: (recorded.get(key), value) for key, value in _settings(flags["--config-file"], opts).items()}
    texts = [f"{key} was {was}, is {now}" for key, (was, now) in pairs.items() if None not in (was, now) and was != now]
    return listed([*texts, *_changed_data(_part(result, "datasets"))], 6)


def split_command(command: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Flags, and KEY VALUE overrides, of the command of a training; each of its flags has a value."""
    flags: dict[str, str] = {}
    words = list(command[1:])
    while words and words[0].startswith("--"):
        flags[words[0]] = words[1]
        words = words[2:]
    return flags, words


def _part(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    return value if isinstance(value, Mapping) else {}


def _settings(config_file: str, opts: Sequence[str]) -> Mapping[str, Any]:
    """The deciding keys that the config file, its bases or ``opts`` set, with their values; {} where it is unreadable.

    Not the defaults: a later version may add keys, or change what a default is called.
    """
    shared = tuple(word for pair in zip(opts[::2], opts[1::2]) if pair[0] not in OF_THE_RUN for word in pair)
    try:
        return _explicit(config_file, resolve_config(config_file).stat().st_mtime_ns, shared)
    except (UserError, OSError):
        return {}


@functools.cache
def _explicit(config_file: str, modified_ns: int, opts: tuple[str, ...]) -> Mapping[str, Any]:
    values = flatten(load_config(config_file, opts))
    ignored = (*OF_THE_RUN, *FREE_KEYS, "MODEL.WEIGHTS")
    return {key: values[key] for key in explicit_keys(config_file, opts) if key in values and key not in ignored}


def _changed_data(parts: Mapping[str, Any]) -> list[str]:
    """The recorded data sets whose annotations are others now. Digests are cached by time of change."""
    changed = []
    for one in {str(one["name"]): one for sets in parts.values() for one in sets}.values():
        try:
            now = get_dataset(str(one["name"])).sha256()
        except (UserError, OSError):
            continue
        if one.get("sha256") not in (None, now):
            changed.append(f"the annotations of {one['name']} have changed")
    return changed
