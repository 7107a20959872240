"""Stands for pretrain/main.py: notes its arguments and leaves a checkpoint."""

import pathlib
import sys

arguments = sys.argv[1:]
output = pathlib.Path(arguments[arguments.index("--output") + 1])
output.mkdir(parents=True, exist_ok=True)
with open(output / "calls.txt", "a") as calls:
    calls.write(" ".join(arguments) + "\n")
(output / "checkpoint_0001.pth.tar").write_bytes(b"weights of " + str(output).encode())
