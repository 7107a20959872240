"""Would a run be refused? The checks of a run on its command line alone, long before its turn comes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convert.architecture import BLOCKS
from convert.backbone_file import read_sidecar
from convert.preprocessing import IMAGENET, MSRA_BGR
from runtime.errors import UserError
from transfer.config import explicit_keys, load_config
from transfer.engines import resolve_engine
from transfer.engines.training.checks import check_values
from transfer.fine_tuning.checks import Datasets, check
from transfer.fine_tuning.initialisation import MSRA_FILES, Init, apply_settings
from transfer.fine_tuning.preparation import check_evaluator

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


@dataclass(frozen=True)
class Circumstances:
    """``processes`` of one run. ``has_data`` False: the data sets are still to be made, and nothing that depends on
    them is checked. ``elsewhere``: the run gets another machine, whose devices are not known here.
    """

    processes: int = 1
    has_data: bool = True
    elsewhere: bool = False


def refusal(
    config_file: str,
    opts: Sequence[str],
    *,
    init: str,
    engine: str,
    evaluator: str,
    depth: int | None,
    where: Circumstances,
) -> str | None:
    """Why train_net.py would refuse this run; None if nothing is known that speaks against it.

    ``depth``: of the ResNet whose weights are still to be made, None where that is not known. Nothing is downloaded or
    written.
    """
    try:
        cfg, explicit = load_config(config_file, opts), explicit_keys(config_file, opts)
        if where.elsewhere:
            cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED = "cpu", False
        chosen = resolve_engine(engine)
        check_evaluator(evaluator, cfg)
        if where.has_data:
            datasets = Datasets.of(cfg, train=True)
            check(cfg, datasets, chosen, processes=where.processes, explicit=explicit, train=True)
        else:
            chosen.check(cfg)
            check_values(cfg, where.processes, train=True)
        if depth is not None and depth != cfg.MODEL.RESNETS.DEPTH:
            raise UserError(
                f"MODEL.RESNETS.DEPTH is {cfg.MODEL.RESNETS.DEPTH}, but {init} will be a ResNet-{depth}; "
                "change the config or the pretraining"
            )
        apply_settings(cfg, _expected(init, cfg), explicit)
    except UserError as error:
        return str(error)
    return None


def _expected(choice: str, cfg: CfgNode) -> Init:
    """The initialisation as far as it is known without its weights."""
    depth = cfg.MODEL.RESNETS.DEPTH
    known: Collection[int] = MSRA_FILES if choice == "supervised-msra" else BLOCKS
    if depth not in known:
        raise UserError(f"--init {choice}: there are no weights for MODEL.RESNETS.DEPTH {depth}")
    if choice == "supervised-msra":
        return Init(choice, settings=MSRA_BGR.config())
    if choice in ("random", "supervised"):
        return Init(choice, settings=IMAGENET.config())
    path = Path(choice)
    sidecar = read_sidecar(path) if path.is_file() else None
    return Init(path.stem, path, sidecar=sidecar, settings=sidecar.get("config") if sidecar else None)
