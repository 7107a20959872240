#!/usr/bin/env python
"""CPU time and peak memory of the converter and of the published MoCo rule, on a full MoCo v2 ResNet-50 checkpoint.

    python benchmarks/convert.py [--repeat 5]

The checkpoint (370 MB: both encoders, a queue of 65,536 keys, momentum buffers) is made in a temporary folder. Each run
is a process of its own, the three kinds in turn; CPU time is user + system, memory the kernel's peak resident size.
"""

from __future__ import annotations

import argparse
import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import pickle
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from runtime.errors import run_entry
from runtime.repository import REPOSITORY

# what the published converter does, rewritten: load all, keep module.encoder_q.*, rename, pickle
PUBLISHED_RULE = """
import pickle, sys
import torch
state = torch.load(sys.argv[1], map_location="cpu")["state_dict"]
model = {}
for key in [k for k in state if k.startswith("module.encoder_q.")]:
    name = key[len("module.encoder_q."):]
    name = name if "layer" in name else "stem." + name
    for n in (4, 3, 2, 1):
        name = name.replace(f"layer{n}", f"res{n + 1}")
    for n in (1, 2, 3):
        name = name.replace(f"bn{n}", f"conv{n}.norm")
    model[name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")] = state[key].numpy()
with open(sys.argv[2], "wb") as file:
    pickle.dump({"model": model, "__author__": "published rule", "matching_heuristics": True}, file)
"""


def make_checkpoint(path: Path) -> None:
    """A MoCo v2 checkpoint of full size, as official training writes it."""
    import torch
    from torchvision.models import resnet50

    state: dict[str, torch.Tensor] = {}
    buffers: dict[int, dict[str, torch.Tensor]] = {}
    for encoder in ("encoder_q", "encoder_k"):
        net = resnet50(num_classes=128)
        net.fc = torch.nn.Sequential(torch.nn.Linear(2048, 2048), torch.nn.ReLU(), net.fc)
        state |= {f"module.{encoder}.{k}": v for k, v in net.state_dict().items()}
        buffers = {i: {"momentum_buffer": torch.randn_like(p)} for i, p in enumerate(net.parameters())}
    state |= {"module.queue": torch.randn(128, 65536), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    optimizer = {"state": buffers, "param_groups": [{"lr": 0.03, "params": list(buffers)}]}
    torch.save({"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": optimizer}, path)


def measure(command: list[str]) -> tuple[float, float, float]:
    """Run ``command`` -> (CPU seconds, wall seconds, peak resident MB) of that process alone."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} left with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024


def same_backbone(ours: Path, published: Path) -> int:
    """How many tensors are equal to the last bit, the published file's fc aside; RuntimeError where one is not."""
    with open(ours, "rb") as first, open(published, "rb") as second:
        a, b = pickle.load(first)["model"], pickle.load(second)["model"]
    b = {k: v for k, v in b.items() if ".fc." not in k}
    if set(a) != set(b) or any(a[k].dtype != b[k].dtype or a[k].tobytes() != b[k].tobytes() for k in a):
        raise RuntimeError("the two converters disagree")
    return len(a)


def main() -> None:
    """Measure the three in turn and print medians, spreads and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5, help="runs of each kind (default 5)")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make_checkpoint(args.make)
        return
    repeat = args.repeat
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint, script = folder / "moco.pth.tar", folder / "published_rule.py"
        # in a process of its own: a child's peak memory is never below its parent's at the fork
        subprocess.run([sys.executable, __file__, "--make", str(checkpoint)], check=True)
        script.write_text(PUBLISHED_RULE)
        ours = [sys.executable, str(REPOSITORY / "convert" / "to_d2.py"), str(checkpoint)]
        kinds = {
            "published rule": [sys.executable, str(script), str(checkpoint), str(folder / "published.pkl")],
            "ours --no-verify": [*ours, str(folder / "ours.pkl"), "--no-verify"],
            "ours, verified": [*ours, str(folder / "verified.pkl")],
        }
        runs: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in kinds}
        for _ in range(repeat + 1):  # the first round warms the page cache and is not counted
            for kind, command in kinds.items():
                runs[kind].append(measure(command))
        print(
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        )
        print(f"checkpoint {checkpoint.stat().st_size / 1e6:.0f} MB, {repeat} runs each, in turn")
        report({kind: values[1:] for kind, values in runs.items()})
        print(f"{same_backbone(folder / 'ours.pkl', folder / 'published.pkl')} backbone tensors equal to the last bit")


def report(runs: dict[str, list[tuple[float, float, float]]]) -> None:
    """One line a kind: median [min-max], and the ratio to the first kind (median over rounds)."""
    base = next(iter(runs.values()))
    print(f"{'':18}{'CPU s':>20}{'wall s':>20}{'peak MB':>10}{'CPU ratio':>24}{'memory':>9}")
    for kind, values in runs.items():
        cpu, wall, memory = zip(*values)
        ratios = [b[0] / v[0] for b, v in zip(base, values)]
        share = statistics.median(memory) / statistics.median([b[2] for b in base])
        print(
            f"{kind:18}{_spread(cpu):>20}{_spread(wall):>20}{statistics.median(memory):10.0f}"
            f"{_spread(ratios) + ' x':>24}{share:9.2f}"
        )


def _spread(values: tuple[float, ...] | list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}-{max(values):.2f}]"


if __name__ == "__main__":
    run_entry(main)
