"""Saves a checkpoint to ``argv[1]``, then a larger one after limiting the size of files: the kernel stops the write."""

import resource
import signal
import sys

import torch

from runtime.errors import UserError
from runtime.torch_files import save_torch

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
save_torch({"w": torch.zeros(10)}, sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_torch({"w": torch.zeros(100_000)}, sys.argv[1])
except UserError as error:
    print("refused", error)
