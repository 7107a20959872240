"""Which scripts a plan's ``prepare`` may start.

A plan is data that people pass around. ``prepare`` names a program and its arguments, so the program must be one of
this list, spelled exactly so: a path inside the repository is not enough, because the environment with everybody's
packages, finished runs and downloaded data lie inside it too. Each of these scripts reads data and writes data, and
checks its own arguments; none of them starts what it is told to.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.errors import UserError

PREPARE_SCRIPTS = ("demo/draw.py", "transfer/splits.py", "pretrain/cache_images.py")


def check_prepare(argv: Sequence[str], where: str) -> None:
    """Raise UserError unless the first word of ``argv`` is one of ``PREPARE_SCRIPTS``."""
    if not argv or argv[0] not in PREPARE_SCRIPTS:
        raise UserError(
            f"{where}: argv must begin with one of {', '.join(PREPARE_SCRIPTS)}, "
            f"not {argv[0] if argv else 'nothing'}; run anything else yourself before the plan"
        )
