"""Ends with an open loader on the data set ``argv[1]``, which the interpreter frees last of all."""

import sys

from tests.transfer.data.loaders import loader
from transfer.data.catalog import get_dataset

sys.open_loader = iter(loader(get_dataset(sys.argv[1]).records(), num_workers=1))  # type: ignore[attr-defined]
next(sys.open_loader)  # type: ignore[attr-defined]
