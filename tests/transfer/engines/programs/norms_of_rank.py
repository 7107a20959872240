"""One of two gloo ranks: applies the norms and precise batch norm, and saves the results to ``argv[1]``/RANK.pt."""

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from transfer.engines.torchvision.model.norms import build_norm
from transfer.engines.training.precise_bn import PreciseBatchNorm

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
whole = torch.randn(5, 8, 6, 7, dtype=torch.float32) * 3 + 1
parts = [whole[:3], whole[3:]]  # ranks of unequal size
results: dict[str, dict[str, Any]] = {}
for name in ("SyncBN", "naiveSyncBN"):
    norm: Any = build_norm(name, 8)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 8))
    x = parts[rank].clone().requires_grad_()
    y = norm(x)
    loss = (y * torch.arange(y.numel()).view_as(y).cos()).sum()
    loss.backward()
    dist.all_reduce(norm.weight.grad)
    results[name] = {
        "y": y.detach(),
        "grad": x.grad,
        "weight_grad": norm.weight.grad,
        "mean": norm.running_mean,
        "var": norm.running_var,
    }
torch.manual_seed(rank)
net: Any = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
for p in net.parameters():
    dist.broadcast(p.data, 0)
batches = [torch.randn(2 + rank, 3, 4, 4) + rank for _ in range(3)]
PreciseBatchNorm(net, lambda: iter(batches), iterations=3).update()
results["precise"] = {"mean": net[1].running_mean, "var": net[1].running_var}
results["inputs"] = {"batches": batches, "weight": net[0].weight.data, "bias": net[0].bias.data}
torch.save(results, f"{sys.argv[1]}/{rank}.pt")
dist.barrier()
dist.destroy_process_group()  # its threads, still running at exit, abort the process now and then
