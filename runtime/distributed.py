"""Processes: torchrun's environment, or a world of one that needs no process group."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class World:
    """This process among all: ``rank`` of ``size``, ``local_rank`` on its machine, and the device it computes on."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and the console."""
        return self.rank == 0


def init_world(device: str | None = None, backend: str | None = None) -> World:
    """Join the process group of torchrun's environment (gloo on CPU, NCCL on CUDA); alone, a world of one.

    ``device`` is "cpu", "cuda" or None for CUDA where there is one, ``backend`` "gloo" or "nccl" instead of the usual.
    Raises UserError for a GPU that is not there.
    """
    import torch

    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_RANK", 0))
    if kind == "cuda" and not 0 <= local < torch.cuda.device_count():
        raise UserError(f"no GPU {local}: this machine has {torch.cuda.device_count()}; use one of them, or the CPU")
    chosen = torch.device(kind, local) if kind == "cuda" else torch.device(kind)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size > 1 and not torch.distributed.is_initialized():
        store, _, _ = next(torch.distributed.rendezvous("env://", rank, size))
        # torchrun's store outlives a restart of its workers, and with it the addresses of the dead ones
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = torch.distributed.PrefixStore(f"attempt_{attempt}", store)
        usual = "nccl" if chosen.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend or usual, store=store, rank=rank, world_size=size)
    return World(rank, size, local, chosen)


def close_world() -> None:
    """Leave the process group, if there is one."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def rank_and_size() -> tuple[int, int]:
    """(rank, number of ranks) of the running process group; (0, 1) without one."""
    import torch

    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _alone() -> bool:
    return rank_and_size()[1] == 1


def all_gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Concatenate equally shaped tensors (B x ...) of all ranks in rank order (no gradient): W*B x ..."""
    import torch

    if _alone():
        return rows
    gathered = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)


def all_reduce_mean(value: torch.Tensor) -> torch.Tensor:
    """The mean over ranks of a tensor, as a new tensor."""
    import torch

    if _alone():
        return value
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def barrier() -> None:
    """Wait for all ranks."""
    import torch

    if not _alone():
        torch.distributed.barrier()


def launch(worker: Callable[..., Any], processes: int, args: tuple[Any, ...] = ()) -> None:
    """Run ``worker(*args)`` in ``processes`` new processes with torchrun's variables set (Detectron2's --num-gpus)."""
    import torch

    if processes <= 1:
        worker(*args)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_enter_rank, (worker, processes, port, args), nprocs=processes, join=True)


def _enter_rank(rank: int, worker: Callable[..., Any], processes: int, port: int, args: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    worker(*args)
