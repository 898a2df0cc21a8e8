"""Attention maps whose measures are known."""
import torch


def one_hot_at(hw_shape, dy, dx):
    """Every query attends to the key at (dy, dx) from it, or to itself where that is outside."""
    h, w = hw_shape
    attention = torch.zeros(h * w, h * w, dtype=torch.float64)
    for y in range(h):
        for x in range(w):
            inside = 0 <= y + dy < h and 0 <= x + dx < w
            attention[y * w + x, (y + dy) * w + x + dx if inside else y * w + x] = 1
    return attention
