"""An entry script whose main() ends in the way that ``argv[1]`` names."""

import sys

from runtime.errors import UserError, run_entry


def main() -> int:
    """End by an error or an exit code."""
    if sys.argv[1] == "mistake":
        raise UserError("bad thing\nin x")
    if sys.argv[1] == "long mistake":
        raise UserError("x" * 5000)
    if sys.argv[1] == "interrupt":
        raise KeyboardInterrupt
    if sys.argv[1] == "full disk":
        raise OSError(28, "No space left on device", "f")
    return int(sys.argv[1])


run_entry(main)
