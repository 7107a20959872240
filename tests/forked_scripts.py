"""Entry scripts run in processes that are forked from one in which torch is imported already.

Importing torch and torchvision takes three CPU seconds, which hundreds of tests would pay. A forked process runs the
script as ``python SCRIPT ARGUMENTS`` does: its own argv, working folder, output and exit code, from the first line of
the script; only the two packages are there already. Tests of start-up itself, and the slow tests, start Python anew.

    python -m tests.forked_scripts    reads a request a line (JSON) and answers with a line for its start and its end
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

REPOSITORY = Path(__file__).resolve().parent.parent


class ForkedScripts:
    """The other side: starts the server when it is first needed."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def run(self, command: Sequence[str], cwd: Path, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run ``command`` (script and arguments). Raises TimeoutExpired, as subprocess.run does."""
        server = self._server = self._server or self._start()
        assert server.stdin is not None
        assert server.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            files = [str(Path(folder, name)) for name in ("out", "err")]
            server.stdin.write(json.dumps({"command": list(command), "cwd": str(cwd), "files": files}) + "\n")
            server.stdin.flush()
            child = int(server.stdout.readline())
            late = threading.Event()

            def end() -> None:
                late.set()
                os.kill(child, signal.SIGKILL)

            timer = threading.Timer(timeout, end)
            timer.start()
            code = int(server.stdout.readline())
            timer.cancel()
            out, err = (Path(file).read_text() for file in files)
        if late.is_set():
            raise subprocess.TimeoutExpired(list(command), timeout, out, err)
        return subprocess.CompletedProcess(list(command), code, out, err)

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.forked_scripts"]
        variables = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen(command, cwd=REPOSITORY, env=variables, text=True, **pipes)

    def close(self) -> None:
        """End the server, by a line: loader workers that a test left behind may hold its standard input open."""
        if self._server is not None:
            self._server.communicate("\n", timeout=60)


def serve() -> None:
    """Answer requests until an empty line, or the end of standard input."""
    import gc

    import torch  # noqa: F401
    import torchvision  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    gc.collect()
    gc.freeze()  # or every collection in a child would copy the pages of what is imported
    while line := sys.stdin.readline().strip():
        request = json.loads(line)
        child = os.fork()
        if not child:
            answers.close()
            run_script(request)
        print(child, file=answers, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def run_script(request: dict[str, Any]) -> NoReturn:
    """In the child: become the script, and end as Python would."""
    import runpy
    import traceback

    code = 1
    try:
        become(request)
        try:
            runpy.run_path(request["command"][0], run_name="__main__")
            code = 0
        except SystemExit as end:
            if not isinstance(end.code, int | None):
                print(end.code, file=sys.stderr)
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
        end_python()
    finally:
        os._exit(code)


def become(request: dict[str, Any]) -> None:
    """Standard streams, working folder, argv and random states of a new process."""
    import random

    import numpy as np

    for number, file in enumerate((os.devnull, *request["files"])):
        opened = os.open(file, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(request["cwd"])
    command = request["command"]
    sys.argv = list(command)
    sys.orig_argv = [sys.executable, *command]
    sys.path[0] = str(Path(command[0]).parent)
    random.seed()
    np.random.seed()


def end_python() -> None:
    """What the interpreter does at its end: wait for threads, call what was registered, flush."""
    import atexit

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    serve()
