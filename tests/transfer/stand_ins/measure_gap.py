"""The real transfer/measure_gap.py on the stand-in repository in the current folder."""

import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[3])

import transfer.planning.config_files  # noqa: E402
import transfer.planning.launchers  # noqa: E402
import transfer.planning.plan  # noqa: E402
import transfer.planning.preflight  # noqa: E402
import transfer.planning.slurm.scripts  # noqa: E402
import transfer.planning.slurm.stage_commands  # noqa: E402
from runtime.errors import run_entry  # noqa: E402
from transfer.measure_gap import main  # noqa: E402

planning = transfer.planning
modules: tuple[Any, ...] = (planning.plan, planning.config_files, planning.launchers)
modules += (planning.slurm.scripts, planning.slurm.stage_commands)
for module in modules:
    module.REPOSITORY = Path.cwd()
planning.preflight._refusal = lambda *_: None  # its configs describe no detector
run_entry(main)
