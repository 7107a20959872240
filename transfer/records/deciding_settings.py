"""What decides the result of a run, as it is stored with every checkpoint and compared when the run is resumed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.atomic import sha256_file
from runtime.logs import get_logger
from runtime.recorded_settings import changed_settings
from transfer.config import later_defaults, recipe
from transfer.data.catalog import get_dataset

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

# Keys that may differ on a resume. Everything else decides the result: SOLVER.MAX_ITER by the schedule that is
# stretched to it, TEST.EVAL_PERIOD by the history of the result, MODEL.DEVICE by its arithmetic.
FREE_KEYS = ("DATALOADER.NUM_WORKERS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EXPECTED_RESULTS", "VIS_PERIOD")
LATER = ("evaluator",)  # what checkpoints of earlier versions do not say
log = get_logger("run")


@dataclass
class RunSettings:
    """The deciding settings of a run, and every change that was allowed on a resume."""

    settings: Mapping[str, Any]
    changes: list[dict[str, Any]] = field(default_factory=list)

    def entry(self) -> dict[str, Any]:
        """The form in which a checkpoint stores them."""
        return {"settings": dict(self.settings), "changes": list(self.changes)}

    def continue_from(self, stored: Any, checkpoint: Path, iterations: int, allowed: Collection[str]) -> None:
        """Compare with the entry ``stored`` in ``checkpoint``, and take over its changes.

        Raises UserError naming every difference that is not in ``allowed``; an allowed one is recorded with
        ``iterations``, the number of finished ones. A checkpoint of an earlier version has no entry.
        """
        if not isinstance(stored, dict) or not isinstance(stored.get("settings"), dict):
            log.warning(
                "%s does not say what it was made with: it cannot be checked that config, data, initialisation, "
                "engine and number of processes are the same",
                checkpoint,
            )
            return
        now = {key: value for key, value in self.settings.items() if key in stored["settings"] or key not in LATER}
        # recipes leave these keys out at their defaults
        unsaid = {key: value for key, value in later_defaults().items() if key in now or key in stored["settings"]}
        before, now = {**unsaid, **stored["settings"]}, {**unsaid, **now}
        changed = changed_settings(before, now, allowed, checkpoint)
        self.changes = list(stored.get("changes") or [])
        if changed:
            self.changes.append({"iteration": iterations, "changed": changed})
            log.warning("continuing at iteration %d with changed settings: %s", iterations, ", ".join(changed))


def run_settings(
    cfg: CfgNode, init: Mapping[str, Any], engine: str, world_size: int, evaluators: Sequence[str] = ()
) -> RunSettings:
    """The deciding settings of a run: by config key, and ``init``, ``engine``, ``world_size`` and ``evaluator``.

    ``evaluators``: the id of the evaluator of each of DATASETS.TEST; the history of the result is made with them.

    ``init`` is the entry of result.json: an initialisation is compared by the content of its weights, wherever they
    are. Data sets and files of proposals are compared by their content too, under the config keys that name them.
    """
    settings = {key: value for key, value in recipe(cfg).items() if key not in FREE_KEYS}
    for part in ("TRAIN", "TEST"):
        settings[f"DATASETS.{part}"] = [_content_of(name) for name in cfg.DATASETS[part]]
        if cfg.MODEL.LOAD_PROPOSALS:
            key = f"PROPOSAL_FILES_{part}"
            settings[f"DATASETS.{key}"] = [f"sha256 {sha256_file(path)}" for path in cfg.DATASETS[key]]
    weights = f" {init['sha256']}" if init.get("sha256") else ""
    own: dict[str, Any] = {"SEED": cfg.SEED, "init": f"{init['kind']}{weights}", "engine": engine}
    return RunSettings({**settings, **own, "world_size": world_size, "evaluator": list(evaluators)})


def _content_of(name: str) -> str:
    spec = get_dataset(name)
    return f"{len(spec.summary.image_ids)} images, sha256 {spec.sha256()}"
