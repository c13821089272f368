"""Averages over cells of a grid, by area, in two dimensions.

A cell that cuts through a position takes its share of it, so that the cells of any grid cover all positions alike. Two
products of matrices: deterministic forwards and backwards on any device, which torch's adaptive pooling is not.
"""

import torch
from torch import Tensor


def area_pool(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average `values` [..., H, W, D] over the cells of a grid: [..., rows, columns, D], in their dtype."""
    height, width = values.shape[-3:-1]
    if (height, width) == grid:
        return values
    rows = area_weights(height, grid[0]).to(values)
    columns = area_weights(width, grid[1]).to(values)
    return torch.einsum("rh,cw,...hwd->...rcd", rows, columns, values)


def area_weights(length: int, num_cells: int) -> Tensor:
    """Return the weight of each of `length` positions in each cell: float32 [cells, length], rows that sum to 1."""
    edges = torch.arange(num_cells + 1, dtype=torch.float64) * (length / num_cells)
    start = torch.arange(length, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], start + 1) - torch.maximum(edges[:-1, None], start)
    return (overlap.clamp_min(0) * (num_cells / length)).float()
