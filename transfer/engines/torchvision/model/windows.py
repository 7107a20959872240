"""Windows of a grid of tokens, and position embeddings of grids: the tensor functions of plain vision transformers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def split_windows(x: torch.Tensor, side: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """Windows of a B x H x W x C grid, zero-padded at the right and bottom to whole windows.

    Returns (B * number of windows) x side x side x C, row by row, and the padded (height, width).
    """
    batch, height, width, channels = x.shape
    below, right = -height % side, -width % side
    if below or right:
        x = F.pad(x, (0, 0, 0, right, 0, below))
    rows, columns = (height + below) // side, (width + right) // side
    x = x.view(batch, rows, side, columns, side, channels).permute(0, 1, 3, 2, 4, 5)
    return x.contiguous().view(-1, side, side, channels), (rows * side, columns * side)


def join_windows(windows: torch.Tensor, padded: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """The B x H x W x C grid of (height, width) ``size`` whose ``split_windows`` gave ``windows`` and ``padded``."""
    side = windows.shape[1]
    rows, columns = padded[0] // side, padded[1] // side
    x = windows.view(-1, rows, columns, side, side, windows.shape[-1]).permute(0, 1, 3, 2, 4, 5)
    x = x.contiguous().view(-1, *padded, windows.shape[-1])
    return x if padded == size else x[:, : size[0], : size[1]].contiguous()


def relative_rows(table: torch.Tensor, length: int) -> torch.Tensor:
    """Embeddings of all pairs of positions on an axis of ``length``: length x length x C, entry [q, k] for q - k.

    ``table``: (2 L - 1) x C, the embeddings of the differences -(L - 1) .. L - 1; it is resampled linearly if the
    axis has another length than L.
    """
    wanted = 2 * length - 1
    if len(table) != wanted:
        table = F.interpolate(table.reshape(1, len(table), -1).permute(0, 2, 1), size=wanted, mode="linear")
        table = table.reshape(-1, wanted).permute(1, 0)
    positions = torch.arange(length, device=table.device)
    return table[positions[:, None] - positions[None, :] + (length - 1)]


def relative_logits(
    q: torch.Tensor, table_h: torch.Tensor, table_w: torch.Tensor, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decomposed relative positions (MViTv2, arXiv:2112.01526, equation 4) of queries on a grid of ``size``.

    ``q``: B x (H * W) x C. Returns what to add to the attention logits by the key's row, B x H x W x H, and by its
    column, B x H x W x W.
    """
    height, width = size
    grid = q.reshape(len(q), height, width, q.shape[-1])
    rows = torch.einsum("bhwc,hkc->bhwk", grid, relative_rows(table_h, height))
    columns = torch.einsum("bhwc,wkc->bhwk", grid, relative_rows(table_w, width))
    return rows, columns


def position_grid(embedding: torch.Tensor, cls_token: bool, size: tuple[int, int]) -> torch.Tensor:
    """Absolute positions for a grid of ``size``: 1 x H x W x C, resampled bicubically where the size differs.

    ``embedding``: 1 x P x C of a square grid, row by row, after one entry for a class token if ``cls_token``.
    """
    grid = embedding[:, 1:] if cls_token else embedding
    side = math.isqrt(grid.shape[1])
    if (side, side) == size:
        return grid.reshape(1, *size, -1)
    grid = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    return F.interpolate(grid, size=size, mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
