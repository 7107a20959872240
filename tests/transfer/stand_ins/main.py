"""Stands for pretrain/main.py: notes its arguments and leaves a checkpoint."""

import os
import pathlib
import sys

arguments = sys.argv[1:]
output = pathlib.Path(arguments[arguments.index("--output") + 1])
output.mkdir(parents=True, exist_ok=True)
with open(output / "calls.txt", "a") as calls:
    calls.write(" ".join(arguments) + "\n")
partial = output / f".{os.getpid()}.partial"  # processes of one job write the same files
partial.write_bytes(b"weights of " + str(output).encode())
os.replace(partial, output / "checkpoint_0001.pth.tar")  # atomically, as the program does
