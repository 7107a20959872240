"""The command line of a command: its name as typed, and a mistake in one line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from runtime.errors import EXIT_USER


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser that reports a mistake as every other is: one line that starts with ``error:``, exit code 2.

    argparse itself would print all options first, and the mistake after them.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(prog=command_name(), **options)

    def error(self, message: str) -> NoReturn:
        """End the program."""
        self.exit(EXIT_USER, f"error: {' '.join(message.split())} ({self.prog} --help lists the options)\n")


def command_name() -> str:
    """``pretrain/main.py``, or ``gap-pretrain`` where that was typed."""
    typed = Path(sys.argv[0])
    return f"{typed.parent.name}/{typed.name}".lstrip("/") if typed.suffix == ".py" else typed.name
