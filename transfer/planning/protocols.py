"""``protocol: frozen | tuned`` of a plan: whether runs train the backbone, and the config keys that say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.listing import listed
from transfer.config.protocol import CACHED, FROZEN, FROZEN_SETTINGS, PROTOCOLS, TUNED, protocol_of
from transfer.config.protocol import FEATURES as KINDS
from transfer.engines.torchvision.feature_folder import SUBFOLDER
from transfer.planning.command_settings import override_words
from transfer.planning.fields import Fields

KEY, FEATURES = "protocol", "features"
FEATURES_KEY = "ENGINE.FEATURES"


def read_protocols(fields: Fields, default: tuple[str, ...] = ("",)) -> tuple[str, ...]:
    """One protocol or several, "" where neither ``fields`` nor the plan (``default``) names one. Raises UserError."""
    if KEY not in fields:
        return default
    given = fields.get(KEY, (str, list))
    names = tuple(given) if isinstance(given, list) else (given,)
    if not names or len(set(map(str, names))) < len(names) or any(name not in PROTOCOLS for name in names):
        raise UserError(f"{fields.where}: {KEY} must be {' or '.join(PROTOCOLS)}, or a list of both, not {given!r}")
    return names


def table_name(name: str, protocol: str, given: bool, count: int) -> str:
    """The name of a config's table: tables of frozen backbones end in -frozen unless the plan names the only one."""
    return name if protocol != FROZEN or (given and count == 1) else f"{name}-{FROZEN}"


def read_features(fields: Fields, default: str, protocols: Sequence[str]) -> str:
    """How frozen backbones make their maps (ENGINE.FEATURES). Raises UserError for one that no protocol uses."""
    if FEATURES not in fields:
        return default
    value: str = fields.get(FEATURES, str)
    if value not in KINDS:
        raise UserError(f"{fields.where}: {FEATURES} must be one of {', '.join(KINDS)}, not {value!r}")
    if FROZEN not in protocols:
        raise UserError(
            f"{fields.where}: {FEATURES} needs a config with {KEY}: {FROZEN}; add it, or leave {FEATURES} out"
        )
    return value


def with_protocol(overrides: Mapping[str, Any], protocol: str, where: str, features: str = "") -> dict[str, Any]:
    """``overrides`` and the keys that ``protocol`` sets. Raises UserError for an override of one of them."""
    if protocol != FROZEN:
        return dict(overrides)
    settings = {**FROZEN_SETTINGS, **({FEATURES_KEY: features} if features else {})}
    if twice := [key for key in settings if key in overrides]:
        raise UserError(f"{where}: overrides has {listed(twice)}, which protocol: {FROZEN} sets; remove one of the two")
    return {**overrides, **settings}


def shared_folder(output: Path, overrides: Mapping[str, Any]) -> dict[str, str]:
    """The setting by which all runs of a plan share one feature cache; {} for runs without one."""
    cached = overrides.get(FEATURES_KEY) == CACHED
    return {"ENGINE.FEATURE_FOLDER": str(output / SUBFOLDER)} if cached else {}


def check_protocol(file: Path, overrides: Mapping[str, Any], protocol: str, where: str) -> None:
    """Raise UserError for a config whose keys contradict ``protocol``."""
    if not protocol:
        return
    from transfer.config import flatten, load_config

    found = protocol_of(flatten(load_config(file, override_words(overrides))))
    if found != protocol:
        what = "freezes the whole backbone" if protocol == TUNED else "has a backbone that cannot be frozen"
        raise UserError(f"{where}: protocol: {protocol}, but the config {what}; choose another config or protocol")
