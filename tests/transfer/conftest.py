"""Makes toy_data and random_sets importable under importlib mode."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "evaluate")]
