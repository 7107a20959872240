"""The focal loss (arXiv:1708.02002) by the function that Detectron2 uses, whose gradients depend on the call.

TorchScript differentiates a function operation by operation in its first call of a process, and by formulas of its own
from the second call on. The gradients differ in their last bits, in Detectron2 as here. A resumed training calls
``skip_first_call``, so that its steps are those of a training that was not interrupted.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch


@functools.cache
def _function() -> Callable[..., torch.Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        from fvcore.nn import sigmoid_focal_loss_jit
    function: Callable[..., torch.Tensor] = sigmoid_focal_loss_jit
    return function


def focal_loss(logits: torch.Tensor, truth: torch.Tensor, *, alpha: float, gamma: float) -> torch.Tensor:
    """Summed focal loss of ``logits`` against ``truth`` of zeros and ones, of the same shape and type."""
    return _function()(logits, truth, alpha=alpha, gamma=gamma, reduction="sum")


def skip_first_call() -> None:
    """Make the next call differentiate as all calls but the first of a process do."""
    for _ in range(2):
        focal_loss(torch.zeros(1, 1, requires_grad=True), torch.ones(1, 1), alpha=0.25, gamma=2.0).backward()
