"""Where a run's backbone comes from, and the settings that its weights fix.

Weights are tied to four settings: pixel order, mean, std, and which convolution of a bottleneck has the stride. They
are taken from the sidecar. A config or command line that contradicts it is refused: the run would measure something
else without any sign of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.architecture import BLOCKS
from convert.preprocessing import IMAGENET, MSRA_BGR, PREPROCESSING
from runtime.atomic import read_json, sha256_file
from runtime.errors import UserError
from runtime.logs import get_logger
from transfer.config import flatten, load_config
from transfer.config.schema import KEYS
from transfer.engines.weights.loading import is_detector
from transfer.fine_tuning.weight_addresses import cached_path, local_weights, web_address

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

FIXED_BY_WEIGHTS = tuple(IMAGENET.config())  # the four settings that weights fix beside the architecture
POSITIONS = ("MODEL.VIT.PRETRAIN_IMG_SIZE", "MODEL.VIT.PRETRAIN_CLS_TOKEN")  # the shape of a ViT's position embedding
INPUT_FORMATS = tuple(sorted({preprocessing.format for preprocessing in PREPROCESSING.values()}))
DETECTOR_FILE = "model_final.pth"
MSRA_FILES = {50: "R-50", 101: "R-101"}
FROM_CONFIG = "pixel order, mean, std and stride are taken from the config"
log = get_logger("init")


@dataclass(frozen=True)
class Init:
    """An initialisation.

    ``weights`` is None for random weights. ``sidecar`` is the content of the JSON file beside the backbone;
    ``settings`` are the config keys that the weights fix, with their values. ``is_detector``: the weights are those of
    a whole detector, of which everything that fits is kept.
    """

    name: str
    weights: Path | None = None
    sha256: str | None = None
    sidecar: dict[str, Any] | None = None
    settings: Mapping[str, Any] | None = None
    is_detector: bool = False

    def record(self) -> dict[str, Any]:
        """The ``init`` entry of result.json."""
        return {
            "name": self.name,
            "kind": "random" if self.weights is None else "detector" if self.is_detector else "backbone",
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
    path = weight_file(choice)
    if is_detector(path):
        return _detector(path, name)
    return _backbone(path, choice, name, folder)


def require_init(choice: str) -> None:
    """Raise UserError for an initialisation that is neither a name, an address nor a file; nothing is downloaded."""
    if choice not in NAMED and web_address(choice) is None:
        weight_file(choice)


def weight_file(choice: str) -> Path:
    """The local file of ``choice``: of a run folder, its trained detector."""
    path = Path(choice).expanduser()
    if path.is_dir() and not (path / DETECTOR_FILE).is_file():
        raise UserError(
            f"--init {choice} is a folder without {DETECTOR_FILE}; name a file, or the folder of a finished run"
        )
    return path / DETECTOR_FILE if path.is_dir() else local_weights(choice)


def _random(depth: int) -> Init:
    # random weights fix nothing; with the input of torchvision-style backbones only the weights differ from theirs
    return Init("random", settings=IMAGENET.config())


def _supervised(depth: int) -> Init:
    from torchvision.models import get_model_weights

    from convert.backbone_file import read_sidecar, write_backbone
    from convert.conversion import convert

    if depth not in BLOCKS:
        raise UserError(f"--init supervised: torchvision has no ResNet of MODEL.RESNETS.DEPTH {depth}")
    url = get_model_weights(f"resnet{depth}")["IMAGENET1K_V1"].url
    target = cached_path(url).with_suffix(".d2.pkl")
    if not target.exists():
        write_backbone(convert(local_weights(url)), target)
    sidecar = read_sidecar(target)
    return Init("supervised", target, sha256_file(target), sidecar, (sidecar or {}).get("config", IMAGENET.config()))


def _supervised_msra(depth: int) -> Init:
    if depth not in MSRA_FILES:
        raise UserError(f"--init supervised-msra: MSRA has ResNet-50 and ResNet-101, not MODEL.RESNETS.DEPTH {depth}")
    path = local_weights(f"detectron2://ImageNetPretrained/MSRA/{MSRA_FILES[depth]}.pkl")
    return Init("supervised-msra", path, sha256_file(path), None, MSRA_BGR.config())


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
        settings = MSRA_BGR.config()
    elif "ImageNetPretrained/torchvision/" in choice:
        settings = IMAGENET.config()
    elif settings is None:
        log.warning("%s has no sidecar: %s", path, FROM_CONFIG)
    return Init(name or path.name.split(".")[0], path, sha256_file(path), sidecar, settings)


def _detector(path: Path, name: str | None) -> Init:
    """A trained detector as a start, with the input settings of the config.yaml beside it, if there is one."""
    beside = path.parent / "config.yaml"
    settings = None
    if beside.is_file():
        settings = input_settings(beside)
    else:
        log.warning(
            "%s has no config.yaml beside it: pixel order, mean, std and stride are taken from the config", path
        )
    log.info("%s is a whole detector: everything that fits is kept (convert/to_d2.py takes its backbone alone)", path)
    return Init(name or _name_of(path), path, sha256_file(path), None, settings, is_detector=True)


def _name_of(path: Path) -> str:
    """Of a detector: runs are told apart by their folders, not by the name that all their weights have."""
    return path.absolute().parent.name if path.name == DETECTOR_FILE else path.name.split(".")[0]


def input_settings(config: Path) -> dict[str, Any]:
    """What a trained detector's weights fix, from its config.yaml."""
    trained = flatten(load_config(config))
    return {key: trained[key] for key in (*FIXED_BY_WEIGHTS, "MODEL.RESNETS.DEPTH")}


def _converted(path: Path, folder: Path) -> Path:
    """The backbone of a training checkpoint, as a .pkl with sidecar in the run folder.

    A backbone of another source that is there belongs to the run in this folder, which may yet refuse these weights: it
    is kept, and the new one gets a name of its own.
    """
    from convert.backbone_file import write_backbone
    from convert.conversion import convert

    backbone, target = convert(path), folder / "backbone.pkl"
    sha256 = str(backbone.source_sha256)
    earlier = read_json(target.with_suffix(".json")).get("source")
    if isinstance(earlier, dict) and earlier.get("sha256") != sha256:
        target = folder / f"backbone_{sha256[:8]}.pkl"
    write_backbone(backbone, target)
    log.info("converted %s to %s", path, target)
    return target


def evaluated_model(weights: Path) -> Init:
    """A trained detector to evaluate, with the input settings of the config.yaml in its folder, if there is one."""
    if not weights.is_file():
        raise UserError(f"--eval-only: no file {weights}; set MODEL.WEIGHTS or OUTPUT_DIR")
    beside = weights.parent / "config.yaml"
    settings = None
    if beside.is_file():
        settings = input_settings(beside)
    return Init("evaluated", weights, settings=settings)


def apply_settings(cfg: CfgNode, init: Init, explicit: Mapping[str, str]) -> list[str]:
    """Set the settings that the weights fix in ``cfg``; returns ``KEY = VALUE`` for each that changed.

    ``explicit``: keys set by the config or the command line -> where (see ``transfer.config.explicit_keys``). Raises
    UserError when one of those, or the architecture, contradicts the backbone.
    """
    changed = []
    if not isinstance(init.settings, Mapping | None):
        raise UserError(f"sidecar of {init.weights}: config is not a mapping of keys; convert the checkpoint again")
    for key, value in (init.settings or {}).items():
        if key not in KEYS:
            raise UserError(
                f"sidecar of {init.weights}: {key} is not a key of the config; convert the checkpoint again"
            )
        # checked here because the engine has checked the config before the weights were read
        unknown_format = init.sidecar is not None and key == "INPUT.FORMAT" and value not in INPUT_FORMATS
        if unknown_format or not _same_form(KEYS[key].default, value):
            raise UserError(f"sidecar of {init.weights}: {key} cannot be {value!r}; convert the checkpoint again")
        *parents, leaf = key.split(".")
        node = cfg
        for parent in parents:
            node = node[parent]
        if same_value(node[leaf], value):
            continue
        if key in explicit or key not in (*FIXED_BY_WEIGHTS, *POSITIONS):
            where = explicit.get(key, "the config")
            raise UserError(
                f"{key} is {node[leaf]} in {where}, but {init.weights or 'random initialisation'} needs {value}; "
                f"remove the setting or choose another backbone"
            )
        node[leaf] = value
        changed.append(f"{key} = {value}")
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
