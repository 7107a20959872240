"""Holds the run folder ``argv[1]``. With ``argv[2]`` "fork" a child process, like a loader worker, outlives it."""

import os
import sys
import time

from runtime.run_folder import RunLock

with RunLock(sys.argv[1]):
    if "fork" not in sys.argv[2:]:
        print("held", flush=True)
    elif os.fork() == 0:
        print(os.getpid(), flush=True)
    time.sleep(60)
