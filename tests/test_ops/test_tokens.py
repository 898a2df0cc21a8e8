"""Tokens and pairs of tokens, taken and placed, against loops."""
import torch

from pervit_mm import ops


def test_tokens_are_taken_and_placed_by_their_numbers():
    x, kept = torch.randn(3, 6, 2), torch.tensor([[4, 0, 1], [1, 2, 5], [3, 5, 0]])
    taken, placed = ops.take_tokens(x, kept), ops.place_tokens(ops.take_tokens(x, kept), kept, 6)
    for b in range(3):
        for i, number in enumerate(kept[b].tolist()):
            assert torch.equal(taken[b, i], x[b, number])
        for number in range(6):
            assert torch.equal(placed[b, number], x[b, number] * (number in kept[b].tolist()))


def test_pairs_are_rows_and_columns_and_their_gradients_go_back_to_the_grid():
    whole, kept = torch.randn(2, 6, 6, requires_grad=True), torch.tensor([[4, 0, 1], [1, 2, 5]])
    pairs, weight = ops.take_pairs(whole, kept), torch.randn(2, 2, 3, 3)
    expected = torch.zeros(2, 6, 6)
    for b in range(2):
        for i, query in enumerate(kept[b].tolist()):
            for j, key in enumerate(kept[b].tolist()):
                assert torch.equal(pairs[b, :, i, j], whole[:, query, key])
                expected[:, query, key] += weight[b, :, i, j]
    grad, = torch.autograd.grad((pairs * weight).sum(), whole)
    torch.testing.assert_close(grad, expected)
