"""A patch embedding for patches of another size: FlexiViT's pseudo-inverse resize (2212.08013, section 3.4)."""

from __future__ import annotations

import numpy as np

from runtime.errors import UserError

LARGEST = 64  # pixels


def resample_patches(weight: np.ndarray, size: int) -> np.ndarray:
    """The weight for patches of ``size`` x ``size`` pixels: C x 3 x P x P -> C x 3 x size x size, of the same type.

    With B the bicubic resize of a patch, from P to ``size`` pixels, the new weight is w' = pinv(B^T) w. For larger
    patches it gives B x what w gives x, for every patch x; for smaller ones it comes as close as possible in the mean
    over white noise. Computed in float64. Raises UserError for a size outside 1 to ``LARGEST``.
    """
    import torch
    from torch.nn import functional as F

    if not 1 <= size <= LARGEST:
        raise UserError(f"--patch-size {size} is not a size of patches: give 1 to {LARGEST} pixels")
    old = weight.shape[-1]
    basis = torch.eye(old * old, dtype=torch.float64).view(-1, 1, old, old)
    resize = F.interpolate(basis, (size, size), mode="bicubic", antialias=True).view(old * old, size * size)  # B^T
    inverse = torch.linalg.pinv(resize)  # size^2 x P^2
    flat = torch.from_numpy(np.ascontiguousarray(weight, dtype=np.float64)).view(-1, old * old)
    return (flat @ inverse.T).view(*weight.shape[:2], size, size).numpy().astype(weight.dtype)
