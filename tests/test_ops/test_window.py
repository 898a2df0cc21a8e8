"""Windows against attention on the whole map."""
import oracle
import pytest
import torch

from pervit_mm import ops


@pytest.mark.parametrize('attend_in_windows', [ops.attend_in_windows, ops.attend_in_padded_windows])
@pytest.mark.parametrize('position', [True, False])
@pytest.mark.parametrize('hw, window', [((6, 6), (3, 3)), ((7, 5), (3, 2)), ((2, 9), (4, 4)), ((1, 5), (1, 2))])
def test_windows_equal_masked_attention_on_the_whole_map(hw, window, position, attend_in_windows):
    heads, d = 2, 3
    x = torch.randn(2, hw[0] * hw[1], heads * d)
    phi = torch.rand(heads, window[0] * window[1], window[0] * window[1]) if position else None

    def split(t):
        return t.unflatten(-1, (heads, d)).transpose(1, 2)

    def attend(tokens, log_position):
        q = split(tokens)
        return ops.peripheral_attention(q, q, q, log_position).transpose(1, 2).flatten(2)

    out = attend_in_windows(x, hw, window, phi.log() if position else None, attend)
    rows, cols = torch.arange(hw[0]) % window[0], torch.arange(hw[1]) % window[1]
    place = (rows[:, None] * window[1] + cols).flatten()
    mask = oracle.windowed_mask(hw, window) * (phi[:, place][:, :, place] if position else torch.ones(heads, 1, 1))
    q = split(x.double())
    expected = oracle.attention(q, q, q, mask.double()).transpose(1, 2).flatten(2).float()
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)


def test_unpartition_undoes_partition():
    x = torch.randn(2, 6, 8, 3)
    torch.testing.assert_close(ops.unpartition(ops.partition(x, (3, 2)), (3, 2), (6, 8)), x, atol=0, rtol=0)
    assert ops.split_axis(7, 3) == [(0, 6, 3), (6, 7, 1)]
    assert ops.split_axis(6, 3) == [(0, 6, 3)] and ops.split_axis(2, 3) == [(0, 2, 2)]


@pytest.mark.parametrize('position', [True, False])
@pytest.mark.parametrize('hw, window', [((6, 6), (3, 3)), ((7, 5), (3, 2)), ((2, 9), (4, 4))])
def test_spread_windows_hold_each_window_and_nothing_between(hw, window, position):
    phi = torch.rand(2, window[0] * window[1], window[0] * window[1]) if position else None
    spread = ops.spread_windows(None if phi is None else phi.log(), hw, window, torch.device('cpu'))
    same = oracle.windowed_mask(hw, window).bool()
    assert (spread.exp()[:, ~same] == 0).all()
    for (i, j), (k, m) in (((0, 0), (1, 1)), ((1, 1), (1, 0)), ((hw[0] - 1, hw[1] - 1), (hw[0] - 1, hw[1] - 1))):
        query, key = i * hw[1] + j, k * hw[1] + m
        if same[query, key]:
            inside = [(a % window[0]) * window[1] + b % window[1] for a, b in ((i, j), (k, m))]
            expected = phi[:, inside[0], inside[1]] if position else torch.ones(1)
            torch.testing.assert_close(spread[:, query, key].exp(), expected)
