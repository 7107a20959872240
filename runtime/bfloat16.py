"""Whether a device computes in bfloat16 itself, or only with detours that take many times as long as float32."""

from __future__ import annotations

import functools
from pathlib import Path

PROCESSOR = Path("/proc/cpuinfo")
FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86 (two) and ARM
SLOW = (
    "this processor has no bfloat16 arithmetic (avx512_bf16, amx_bf16): it takes many times as long as float32, up to "
    "20 times with AVX2 alone"
)


def has_native_bfloat16(device: str) -> bool:
    """``device``: the type of a torch device, ``cpu`` or ``cuda``. False where the system does not tell."""
    if device == "cpu":
        return bool(FLAGS & _flags(PROCESSOR))
    if device != "cuda":
        return False
    import torch

    return bool(torch.version.hip) or torch.cuda.get_device_capability() >= (8, 0)


@functools.cache
def _flags(file: Path) -> frozenset[str]:
    """The features that the system lists for the first processor."""
    try:
        lines = file.read_text().splitlines()
    except OSError:  # not Linux
        return frozenset()
    return frozenset(next((x.partition(":")[2].split() for x in lines if x.startswith(("flags", "Features"))), ()))
