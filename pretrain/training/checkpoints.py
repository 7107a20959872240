"""Checkpoints of pretraining: named as the official code does, written atomically, the newest readable one resumed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pretrain.encoders.checkpoint_file import load_checkpoint
from pretrain.methods.base import Method
from pretrain.training.checkpoint_checks import check_content
from runtime.errors import UserError
from runtime.logs import get_logger
from runtime.torch_files import save_torch

EPOCH_FILE = re.compile(r"checkpoint_(\d{4,})\.pth\.tar")
STEP_FILE = re.compile(r"checkpoint_step_(\d+)\.pth\.tar")
log = get_logger("pretrain")


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one run folder: ``checkpoint_0199.pth.tar`` after 200 epochs, ``checkpoint_step_N.pth.tar``
    in between. The ``keep`` newest stay, all of them with 0."""

    folder: Path
    steps_per_epoch: int
    keep: int = 2

    def name(self, step: int) -> Path:
        """File of the state after ``step`` steps."""
        epoch, within = divmod(step, self.steps_per_epoch)
        label = f"step_{step:09d}" if within else f"{epoch - 1:04d}"
        return self.folder / f"checkpoint_{label}.pth.tar"

    def steps(self) -> list[tuple[int, Path]]:
        """(step, file) of every checkpoint, newest first."""
        numbered = []
        for file in self.folder.glob("checkpoint_*.pth.tar"):
            if match := STEP_FILE.fullmatch(file.name):
                numbered.append((int(match[1]), file))
            elif match := EPOCH_FILE.fullmatch(file.name):
                numbered.append(((int(match[1]) + 1) * self.steps_per_epoch, file))
        return sorted(numbered, reverse=True)

    def save(self, state: dict[str, Any]) -> Path:
        """Write ``state`` under the name of its step, then remove what is older than the newest ``keep``."""
        file = self.name(state["step"])
        save_torch(state, file)  # atomic, and before anything is removed: a kill at any point leaves a readable file
        for _, old in self.steps()[self.keep :] if self.keep else []:
            old.unlink(missing_ok=True)
        return file

    def renumber(self, state: dict[str, Any]) -> None:
        """Restart the numbering with ``state``, because an epoch has another number of steps than when the files here
        were named.

        They move to a folder inside this one: by its name an older file could be mistaken for the newest, which a
        resume loads and ``save`` keeps.
        """
        file = self.name(state["step"])
        save_torch(state, file)
        aside = self.folder / f"before_step_{state['step']:09d}"
        for _, old in self.steps():
            if old != file:
                aside.mkdir(exist_ok=True)
                old.replace(aside / old.name)

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that can be read, None when there is no checkpoint; the log names damaged ones.

        Raises UserError when there are checkpoints and none can be read: starting over would overwrite them.
        """
        files = self.steps()
        for _, file in files:
            try:
                return file, read_checked(file)
            except UserError as error:
                log.warning("passing over a damaged checkpoint: %s", error)
        if files:
            raise UserError(f"none of the {len(files)} checkpoints in {self.folder} can be read; move them away")
        return None


def read_checked(file: Path) -> dict[str, Any]:
    """The checkpoint in ``file``; UserError for one that cannot be read, or whose content is not what a run writes."""
    checkpoint = load_checkpoint(file)
    check_content(checkpoint, file)
    return checkpoint


def optimizer_state(optimizer: torch.optim.Optimizer, method: Method) -> dict[str, Any]:
    """The optimiser's state with room for parameters that are not trained.

    The official code gives its optimiser the key encoder's parameters too, after the query encoder's, and refuses a
    state with another number of parameters. The key encoder's never get a gradient, so they have no momentum.
    """
    state = optimizer.state_dict()
    everything = len(list(method.parameters()))
    group = dict(state["param_groups"][0])
    if "fused" in group:
        group["fused"] = None  # the kernel is this program's choice, not the file's
    state["param_groups"] = [{**group, "params": list(range(everything))}]
    return state


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load such a state, or an official one, into an optimiser over the trained parameters."""
    ours = optimizer.state_dict()["param_groups"][0]
    count = len(ours["params"])
    group = {**ours, **state["param_groups"][0], "params": list(range(count))}
    trained = {i: s for i, s in state["state"].items() if i < count}
    for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
        buffer = trained.get(index, {}).get("momentum_buffer")
        if buffer is not None and (not isinstance(buffer, torch.Tensor) or buffer.shape != parameter.shape):
            raise ValueError(f"the momentum of parameter {index} is not a tensor of its shape {tuple(parameter.shape)}")
    optimizer.load_state_dict({"state": trained, "param_groups": [group]})


def restore(method: Method, optimizer: torch.optim.Optimizer, checkpoint: dict[str, Any], file: Path) -> None:
    """Load a checkpoint's weights, dictionary and momentum; UserError names what does not fit."""
    try:
        method.import_state(checkpoint["state_dict"])
        method.import_extra(checkpoint.get("extra_state", {}))
        load_optimizer(optimizer, checkpoint["optimizer"])
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{file} does not fit this method and encoder ({checkpoint['arch']}): {reason}") from error
