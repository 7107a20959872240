"""The real transfer/measure_gap.py on the stand-in repository in the current folder."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[3])

import transfer.planning.launchers  # noqa: E402
import transfer.planning.plan  # noqa: E402
import transfer.planning.slurm.scripts  # noqa: E402
import transfer.planning.slurm.stage_commands  # noqa: E402
from runtime.errors import run_entry  # noqa: E402
from transfer.measure_gap import main  # noqa: E402

transfer.planning.plan.REPOSITORY = transfer.planning.launchers.REPOSITORY = Path.cwd()
transfer.planning.slurm.scripts.REPOSITORY = transfer.planning.slurm.stage_commands.REPOSITORY = Path.cwd()
run_entry(main)
