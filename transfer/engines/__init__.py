"""Detection engines by name: the real Detectron2, and an embedded one made from torch and torchvision operators."""

from __future__ import annotations

import importlib
import importlib.util

from runtime.errors import UserError
from transfer.engines.protocol import Engine

# name -> (module, class); imported only when selected, so that neither engine needs the other's libraries
ENGINES: dict[str, tuple[str, str]] = {
    "detectron2": ("transfer.engines.detectron2.engine", "Detectron2Engine"),
    "torchvision": ("transfer.engines.torchvision.engine", "TorchvisionEngine"),
}


def resolve_engine(name: str = "auto") -> Engine:
    """The engine called ``name``; "auto" takes Detectron2 where it is installed and the embedded one elsewhere.

    Raises UserError for an unknown name and for Detectron2 where it is not installed.
    """
    if name == "auto":
        name = "detectron2" if importlib.util.find_spec("detectron2") else "torchvision"
    if name not in ENGINES:
        raise UserError(f"unknown engine {name!r}; choose one of auto, {', '.join(sorted(ENGINES))}")
    if name == "detectron2" and not importlib.util.find_spec("detectron2"):
        raise UserError("engine detectron2 is not installed; install Detectron2 or use --engine torchvision")
    module, cls = ENGINES[name]
    engine: Engine = getattr(importlib.import_module(module), cls)()
    return engine
