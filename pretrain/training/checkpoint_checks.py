"""Whether the content of a checkpoint is what a run writes: damaged or edited files are refused before their use."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import torch

from runtime.errors import UserError


def weights_sha256(state: dict[str, torch.Tensor]) -> str:
    """Hex sha256 over a state dict: name without ``module.``, type, shape and bytes of each tensor, in its order.

    Equal for equal weights, whereas the files of two equal runs differ in their provenance.
    """
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(f"{name.removeprefix('module.')} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_content(checkpoint: dict[str, Any], file: Path) -> None:
    """Raise UserError where an entry is of another kind than a run writes, or contradicts another entry.

    An official file has no step, settings, changes or sum; what it has is checked alike.
    """
    problem = _problem_of_entries(checkpoint) or _problem_of_step(checkpoint) or _problem_of_optimizer(checkpoint)
    recorded = checkpoint.get("weights_sha256")
    if not problem and recorded is not None and weights_sha256(checkpoint["state_dict"]) != recorded:
        problem = "its weights are not those that its weights_sha256 was computed from"
    if problem:
        raise UserError(f"{file}: {problem}; the file is damaged or was edited, resume from another one")


def _problem_of_entries(checkpoint: dict[str, Any]) -> str:
    state = checkpoint["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        return "state_dict is not a table of tensors"
    if not all(isinstance(name, str) for name in state):
        return "state_dict has a name that is not text"
    extra = checkpoint.get("extra_state", {})
    if not isinstance(extra, dict) or not all(isinstance(value, torch.Tensor) for value in extra.values()):
        return "extra_state is not a table of tensors"
    if not isinstance(checkpoint.get("settings", {}), dict):
        return "settings is not a table"
    changes = checkpoint.get("changes", [])
    if not isinstance(changes, list) or not all(isinstance(change, dict) for change in changes):
        return "changes is not a list of tables"
    return ""


def _problem_of_step(checkpoint: dict[str, Any]) -> str:
    counts = {key: checkpoint[key] for key in ("epoch", "step", "steps_per_epoch") if key in checkpoint}
    for key, value in counts.items():
        if type(value) is not int or value < (1 if key == "steps_per_epoch" else 0):
            return f"{key} is {value!r:.40}, not a count"
    if not {"step", "steps_per_epoch"} <= counts.keys():
        return ""
    step, per_epoch = counts["step"], counts["steps_per_epoch"]
    if checkpoint.get("epoch", step // per_epoch) != step // per_epoch:
        return (
            f"epoch is {checkpoint['epoch']}, but step {step} of {per_epoch} an epoch is in epoch {step // per_epoch}"
        )
    settings = checkpoint.get("settings", {})
    epochs, iterations = settings.get("epochs"), settings.get("iterations")
    length = iterations if iterations is not None else epochs * per_epoch if type(epochs) is int else step
    if type(length) is not int or step > length:
        return f"step is {step}, but its run has {length!r:.40} steps"
    return ""


def _problem_of_optimizer(checkpoint: dict[str, Any]) -> str:
    if "optimizer" not in checkpoint:
        return ""
    optimizer = checkpoint["optimizer"]
    groups = optimizer.get("param_groups") if isinstance(optimizer, dict) else None
    if not isinstance(groups, list) or not groups or not isinstance(groups[0], dict):
        return "optimizer has no parameter group"
    if not isinstance(optimizer.get("state"), dict):
        return "optimizer has no state"
    for key in ("lr", "momentum", "weight_decay", "dampening"):
        value = groups[0].get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"optimizer has the {key} {value!r:.40}"
    return ""
