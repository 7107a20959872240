"""Where a run's backbone comes from, and the input settings that must come with it.

A backbone is tied to four settings: pixel order, mean, std and the place of the stride in a bottleneck. They are taken
from its sidecar; a config or command line that says otherwise is refused, because the run would silently measure
something else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.atomic import sha256_file
from runtime.errors import UserError
from runtime.logs import get_logger
from transfer.config import flatten, load_config
from transfer.config.schema import KEYS
from transfer.fine_tuning.weight_addresses import cached_path, local_weights

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

Settings = dict[str, Any]
SWITCHES = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.RESNETS.STRIDE_IN_1X1")
TORCHVISION_INPUT: Settings = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
}
MSRA_INPUT: Settings = {
    "INPUT.FORMAT": "BGR",
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
}
MSRA_FILES = {50: "R-50", 101: "R-101"}
log = get_logger("init")


@dataclass(frozen=True)
class Init:
    """``weights`` None is random. ``sidecar`` is the JSON beside the backbone, ``settings`` the keys it fixes."""

    name: str
    weights: Path | None = None
    sha256: str | None = None
    sidecar: dict[str, Any] | None = None
    settings: Mapping[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        """The ``init`` entry of result.json."""
        return {
            "name": self.name,
            "kind": "random" if self.weights is None else "backbone",
            "weights": None if self.weights is None else str(self.weights),
            "sha256": self.sha256,
            "sidecar": self.sidecar,
        }


def resolve_init(choice: str | None, cfg: CfgNode, *, name: str | None, folder: Path) -> Init:
    """The initialisation named by ``--init`` or, without it, by MODEL.WEIGHTS.

    ``choice``: random, supervised, supervised-msra, or a path or address of a backbone or a checkpoint (converted
    into ``folder`` on the way). Raises UserError for neither: nothing trains from random weights unasked.
    """
    if choice is None:
        choice = cfg.MODEL.WEIGHTS
        if not choice:
            raise UserError("no initialisation: pass --init random to train from scratch, or --init PATH.pkl")
    if choice in NAMED:
        init = NAMED[choice](cfg.MODEL.RESNETS.DEPTH)
        return Init(name or choice, init.weights, init.sha256, init.sidecar, init.settings)
    return _backbone(local_weights(choice), choice, name, folder)


def _random(depth: int) -> Init:
    # no statistics to respect: the input of torchvision-style backbones, so that only the weights differ from those
    return Init("random", settings=TORCHVISION_INPUT)


def _supervised(depth: int) -> Init:
    from torchvision.models import get_model_weights

    from convert.backbone_file import read_sidecar, write_backbone
    from convert.conversion import convert

    if depth not in (18, 34, 50, 101, 152):
        raise UserError(f"--init supervised: torchvision has no ResNet of MODEL.RESNETS.DEPTH {depth}")
    url = get_model_weights(f"resnet{depth}")["IMAGENET1K_V1"].url
    target = cached_path(url).with_suffix(".d2.pkl")
    if not target.exists():
        write_backbone(convert(local_weights(url)), target)
    sidecar = read_sidecar(target)
    return Init("supervised", target, sha256_file(target), sidecar, (sidecar or {}).get("config", TORCHVISION_INPUT))


def _supervised_msra(depth: int) -> Init:
    if depth not in MSRA_FILES:
        raise UserError(f"--init supervised-msra: MSRA has ResNet-50 and ResNet-101, not MODEL.RESNETS.DEPTH {depth}")
    path = local_weights(f"detectron2://ImageNetPretrained/MSRA/{MSRA_FILES[depth]}.pkl")
    return Init("supervised-msra", path, sha256_file(path), None, MSRA_INPUT)


NAMED: dict[str, Callable[[int], Init]] = {
    "random": _random,
    "supervised": _supervised,
    "supervised-msra": _supervised_msra,
}


def _backbone(path: Path, choice: str, name: str | None, folder: Path) -> Init:
    from convert.backbone_file import read_sidecar

    if path.suffix not in (".pkl", ".safetensors") and read_sidecar(path) is None:
        path = _converted(path, folder)
    sidecar = read_sidecar(path)
    settings = sidecar.get("config") if sidecar else None
    if "ImageNetPretrained/MSRA/" in choice:
        settings = MSRA_INPUT
    elif "ImageNetPretrained/torchvision/" in choice:
        settings = TORCHVISION_INPUT
    elif settings is None:
        log.warning("%s has no sidecar: pixel order, mean, std and stride stay as the config says", path)
    return Init(name or path.name.split(".")[0], path, sha256_file(path), sidecar, settings)


def _converted(path: Path, folder: Path) -> Path:
    """The backbone of a training checkpoint, as a .pkl with sidecar in the run folder."""
    from convert.backbone_file import write_backbone
    from convert.conversion import convert

    target = folder / "backbone.pkl"
    write_backbone(convert(path), target)
    log.info("converted %s to %s", path, target)
    return target


def evaluated_model(weights: Path) -> Init:
    """A trained detector to evaluate; the input settings it was trained with are in the config.yaml beside it."""
    if not weights.is_file():
        raise UserError(f"--eval-only: no {weights}; set MODEL.WEIGHTS or OUTPUT_DIR")
    beside = weights.parent / "config.yaml"
    settings = None
    if beside.is_file():
        trained = flatten(load_config(beside))
        settings = {key: trained[key] for key in (*SWITCHES, "MODEL.RESNETS.DEPTH")}
    return Init("evaluated", weights, settings=settings)


def apply_settings(cfg: CfgNode, init: Init, explicit: Mapping[str, str]) -> list[str]:
    """Set the four switches that a backbone brings; returns "KEY = VALUE" for each that changed.

    ``explicit``: keys set by the config or the command line -> where (see ``transfer.config.explicit_keys``). Raises
    UserError when one of those, or the architecture, contradicts the backbone.
    """
    changed = []
    if not isinstance(init.settings, Mapping | None):
        raise UserError(f"sidecar of {init.weights}: config is not a mapping of keys; convert the checkpoint again")
    for key, wanted in (init.settings or {}).items():
        if key not in KEYS:
            raise UserError(f"sidecar of {init.weights}: {key} is not a key of the config; convert it again")
        if not _same_form(KEYS[key].default, wanted):
            raise UserError(f"sidecar of {init.weights}: {key} cannot be {wanted!r}; convert the checkpoint again")
        *parents, leaf = key.split(".")
        node = cfg
        for parent in parents:
            node = node[parent]
        if same_value(node[leaf], wanted):
            continue
        if key in explicit or key not in SWITCHES:
            where = explicit.get(key, "the config")
            raise UserError(
                f"{key} is {node[leaf]} in {where}, but {init.weights or 'random initialisation'} needs {wanted}; "
                f"remove the setting or choose another backbone"
            )
        node[leaf] = wanted
        changed.append(f"{key} = {wanted}")
    return changed


def _same_form(default: Any, value: Any) -> bool:
    if isinstance(default, list | tuple):
        return isinstance(value, list | tuple) and all(_same_form(default[0], v) for v in value if default)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


def same_value(a: Any, b: Any) -> bool:
    """Equality that ignores tuple against list and the last digits of floats."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same_value(x, y) for x, y in zip(a, b))
    if isinstance(a, int | float) and isinstance(b, int | float) and not isinstance(a, bool):
        return math.isclose(a, b, rel_tol=1e-4)
    return bool(a == b)
