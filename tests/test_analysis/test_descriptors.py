"""Dense descriptors against their definition, token by token."""
import pytest
import torch
from conftest import TINY_ARCH

from pervit_mm.analysis.capture import BlockRecord, capture
from pervit_mm.analysis.descriptors import dense_descriptors, log_bins, saliency
from pervit_mm.models import PerViT
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')


def bins_by_definition(x, levels):
    """``log_bins`` of one map ``(H, W, C)``, in loops."""
    h, w, _ = x.shape
    out = []
    for row in range(h):
        for col in range(w):
            parts = [x[row, col]]
            for size in (3**level for level in range(levels)):
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        if dy or dx:
                            y, z = min(max(row + dy * size, 0), h - 1), min(max(col + dx * size, 0), w - 1)
                            half = size // 2
                            square = x[max(y - half, 0):y + half + 1, max(z - half, 0):z + half + 1]
                            parts.append(square.mean(dim=(0, 1)))
            out.append(torch.cat(parts))
    return torch.stack(out).reshape(h, w, -1)


@pytest.mark.parametrize('levels', [1, 2, 3])
def test_log_bins_follow_their_definition(levels):
    x = torch.randn(2, 7, 5, 3, dtype=torch.float64)
    binned = log_bins(x, levels)
    assert binned.shape == (2, 7, 5, (1 + 8 * levels) * 3)
    torch.testing.assert_close(binned, torch.stack([bins_by_definition(image, levels) for image in x]))


def test_a_constant_map_gives_equal_bins_and_a_shift_moves_the_interior():
    constant = torch.tensor([1., -2.]).expand(1, 9, 9, 2)
    torch.testing.assert_close(log_bins(constant), constant.repeat(1, 1, 1, 17))
    x = torch.randn(1, 20, 20, 4)
    binned, moved = log_bins(x), log_bins(x.roll((2, 3), dims=(1, 2)))
    # Two levels reach 3 + 1 tokens, and the roll wraps around the first rows and columns.
    torch.testing.assert_close(moved[:, 6:-4, 7:-4], binned[:, 4:-6, 4:-7])


def test_descriptors_of_a_block_are_its_heads_in_a_row():
    model = PerViT(TINY_ARCH, img_size=(12, 20)).eval()
    with torch.no_grad(), capture(model, features=True, qkv=True) as record:
        model(torch.rand(2, 3, 12, 20))
    block = record.blocks[1]
    assert block.hw_shape == (3, 5)
    for facet in ('query', 'key', 'value'):
        found, heads = dense_descriptors(block, facet), getattr(block, facet)
        assert found.shape == (2, 3, 5, 16)
        torch.testing.assert_close(found[1, 2, 3], heads[1, :, 2 * 5 + 3].flatten())
    token = dense_descriptors(block, 'token')
    torch.testing.assert_close(token[1, 2, 3], block.output[1, 2 * 5 + 3])
    assert saliency(block.attention, block.hw_shape).shape == (2, 3, 5)


def test_saliency_is_the_column_mean_from_0_to_1():
    attention = torch.zeros(2, 1, 4, 4)
    attention[0, 0] = torch.tensor([[.5, .5, 0, 0], [.5, .5, 0, 0], [0, .5, .5, 0], [0, .5, .5, 0]])
    attention[1] = .25
    found = saliency(attention, (2, 2))
    torch.testing.assert_close(found[0], torch.tensor([[.5, 1], [.5, 0]]))
    assert found[1].eq(0).all(), 'seen alike'
    for side in (7, 14):  # where float32 rounds equal means in two ways
        assert saliency(torch.full((1, 2, side**2, side**2), 1 / side**2), (side, side)).eq(0).all()


def test_mistakes_get_one_sentence():
    block = BlockRecord(3, (2, 2))
    with pytest.raises(UserError, match=r"facet must be one of \('query', 'key', 'value', 'token'\), got 'attn'"):
        dense_descriptors(block, 'attn')
    with pytest.raises(UserError, match="facet='key' was not recorded of block 3: call capture with qkv=True"):
        dense_descriptors(block, 'key')
    with pytest.raises(UserError, match='levels must be a number of at least 1, got 0'):
        log_bins(torch.zeros(1, 2, 2, 1), 0)
    with pytest.raises(UserError, match=r'descriptors must be \(B, H, W, C\), got \(2, 2, 1\)'):
        log_bins(torch.zeros(2, 2, 1))
