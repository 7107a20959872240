"""Several processes for one run: Detectron2's --num-gpus, --num-machines, --machine-rank and --dist-url."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from runtime.errors import UserError
from runtime.stop import SIGNALS


@dataclass(frozen=True)
class Machines:
    """``processes`` on each of ``count`` machines; this is number ``rank``. ``address``: tcp://HOST:PORT or auto."""

    processes: int = 1
    count: int = 1
    rank: int = 0
    address: str = "auto"

    def rendezvous(self) -> tuple[str, str]:
        """Host and port of rank 0; raises UserError for several machines without an address."""
        if self.address == "auto":
            if self.count > 1:
                raise UserError("--dist-url auto works on one machine only; give tcp://HOST:PORT of machine 0")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                return "127.0.0.1", str(probe.getsockname()[1])
        host, _, port = self.address.removeprefix("tcp://").rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"--dist-url {self.address}: write tcp://HOST:PORT")
        return host, port


def run_processes(worker: Callable[..., int], machines: Machines, args: tuple[Any, ...]) -> int:
    """Run ``worker(*args)`` once, or in new processes that see torchrun's variables; returns its exit code.

    Under torchrun (WORLD_SIZE is set) this process is one of the run's. Signals are forwarded to the new processes; a
    UserError in one of them is raised here.
    """
    if machines.processes == 1 and machines.count == 1:
        return worker(*args)
    if "WORLD_SIZE" in os.environ:
        raise UserError("--num-gpus starts its own processes; leave it out under torchrun")
    return _spawn(worker, machines, args)


def _spawn(worker: Callable[..., int], machines: Machines, args: tuple[Any, ...]) -> int:
    import torch

    messages = torch.multiprocessing.get_context("spawn").SimpleQueue()
    host, port = machines.rendezvous()
    job = (worker, machines, host, port, messages, args)
    # after an error in one process torch logs that it ends the others, which would only distract from the error
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    context = torch.multiprocessing.spawn(_enter, job, nprocs=machines.processes, join=False)

    def forward(signum: int, frame: FrameType | None) -> None:
        for pid in context.pids():
            os.kill(pid, signum)

    previous = {signum: signal.signal(signum, forward) for signum in SIGNALS}
    try:
        while not context.join():
            pass
    except torch.multiprocessing.ProcessExitedException as error:
        if not messages.empty():
            raise UserError(messages.get()) from error
        return int(error.exit_code) if error.exit_code > 0 else 128 - int(error.exit_code)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    return 0


def _enter(
    local_rank: int,
    worker: Callable[..., int],
    machines: Machines,
    host: str,
    port: str,
    messages: Any,
    args: tuple[Any, ...],
) -> None:
    rank, size = machines.rank * machines.processes + local_rank, machines.count * machines.processes
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(local_rank), WORLD_SIZE=str(size))
    os.environ.update(MASTER_ADDR=host, MASTER_PORT=port)
    try:
        code = worker(*args)
    except UserError as error:
        messages.put(str(error))
        code = error.exit_code
    sys.exit(code)
