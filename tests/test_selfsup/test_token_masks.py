"""Block masks are those of a slow loop over rectangles, and attention masks hide what is attended to."""
import math
import random

import pytest
import torch
from mmengine.registry import MODELS

from pervit_mm.selfsup.token_masks import AttentionMask, TokenBlockMask
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')


def slow_mask(height, width, limit, min_aspect=0.3):
    """The rule of the docstring, one image and one rectangle at a time."""
    hidden, least, failures = set(), (min(height, width) // 3)**2, 0
    while len(hidden) < limit and failures < 10:
        area = random.uniform(least, limit - len(hidden))
        aspect = math.exp(random.uniform(math.log(min_aspect), -math.log(min_aspect)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        failures += 1
        if h < height and w < width:
            top, left = random.randint(0, height - h), random.randint(0, width - w)
            new = {(i, j) for i in range(top, top + h) for j in range(left, left + w)} - hidden
            if 0 < len(new) <= limit - len(hidden):
                hidden, failures = hidden | new, 0
    mask = torch.zeros(height, width)
    for i, j in hidden:
        mask[i, j] = 1
    return mask


@pytest.mark.parametrize('hw_shape, ratio', [((7, 7), 0.3), ((6, 10), 0.5)])
def test_block_masks_have_the_distribution_of_the_slow_loop(hw_shape, ratio):
    """Share of each token, and mean and deviation of the number hidden."""
    random.seed(0)
    masks = TokenBlockMask((ratio, ratio), prob=1)(3000, hw_shape).float()
    slow = torch.stack([slow_mask(*hw_shape, ratio * math.prod(hw_shape)) for _ in range(3000)])
    torch.testing.assert_close(masks.mean(0), slow.mean(0), rtol=0, atol=0.05)
    found, expected = masks.sum((1, 2)), slow.sum((1, 2))
    assert found.mean().item() == pytest.approx(expected.mean().item(), rel=0.02)
    assert found.std().item() == pytest.approx(expected.std().item(), rel=0.15)


@pytest.mark.parametrize('hw_shape', [(7, 7), (4, 4), (9, 5), (14, 14)])
@pytest.mark.parametrize('ratio', [0.1, 0.3, 0.5, 0.9])
def test_block_masks_never_hide_more_than_the_limit(hw_shape, ratio):
    masks = TokenBlockMask((ratio, ratio), prob=1)(200, hw_shape)
    limit = int(ratio * math.prod(hw_shape))
    counts = masks.flatten(1).sum(1)
    assert masks.shape == (200, *hw_shape) and masks.dtype == torch.bool
    assert counts.max() <= limit and counts.double().mean() > 0.6 * limit


def test_an_aspect_of_one_gives_squares():
    """With a limit of 4.9 tokens, an area from 4 to 4.9 is a square of 4, and nothing fits beside it."""
    masks = TokenBlockMask((0.1, 0.1), prob=1, min_aspect=1)(40, (7, 7))
    squares = {(top, left): torch.zeros(7, 7, dtype=torch.bool) for top in range(6) for left in range(6)}
    for (top, left), square in squares.items():
        square[top:top + 2, left:left + 2] = True
    found = [place for mask in masks for place, square in squares.items() if torch.equal(mask, square)]
    assert len(found) == 40 and len(set(found)) > 15


def test_shares_and_masks_differ_between_images():
    masks = TokenBlockMask((0.1, 0.5), prob=1)(500, (14, 14)).flatten(1)
    shares = masks.double().mean(1)
    assert shares.max() <= 0.5 and shares.max() > 0.48 and shares.min() < 0.12
    assert len(masks.unique(dim=0)) > 450


def test_the_share_of_masked_images_is_the_probability():
    for masks in (TokenBlockMask((0.3, 0.3), prob=0.2)(1000, (7, 7)),
                  AttentionMask((0.3, 0.3), prob=0.2)(1000, (7, 7), torch.rand(1000, 49))):
        assert masks.flatten(1).any(1).double().mean().item() == pytest.approx(0.2, abs=0.04)
    assert not TokenBlockMask(prob=0)(50, (7, 7)).any()
    assert not AttentionMask(prob=0)(50, (7, 7), torch.rand(50, 49)).any()


def test_where_no_rectangle_fits_the_mask_is_empty():
    """A limit of half a token, and grids without room."""
    assert not TokenBlockMask((0.01, 0.01), prob=1)(50, (7, 7)).any()
    for hw_shape in ((1, 1), (1, 9), (2, 2)):
        masks = TokenBlockMask((0.5, 0.5), prob=1)(50, hw_shape)
        assert masks.any() == (hw_shape == (2, 2))


def test_the_same_seed_draws_the_same_masks():
    attention = torch.rand(20, 49)
    for name in ('TokenBlockMask', 'AttentionMask'):
        masking, found = MODELS.build(dict(type=name)), []
        assert masking.needs_attention == (name == 'AttentionMask')
        for seed in (5, 5, 6):
            torch.manual_seed(seed)
            found.append(masking(20, (7, 7), attention))
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_the_most_attended_tokens_are_hidden():
    """Without hints: 14 of 49, each above all that are shown. The grid is read row by row."""
    attention = torch.rand(30, 49)
    masks = AttentionMask((0.3, 0.3), prob=1, hint=False)(30, (7, 7), attention).flatten(1)
    assert (masks.sum(1) == 14).all()
    for mask, values in zip(masks, attention):
        assert values[mask].min() > values[~mask].max()
    one = AttentionMask((0.2, 0.2), prob=1, hint=False)(1, (2, 3), torch.tensor([[0., 0, 0, 1, 0, 0]]))
    assert one.tolist() == [[[False] * 3, [True, False, False]]]


def test_one_of_the_top_four_is_shown_again():
    """N = 49 and r = 0.3: of the 14 that are hidden, int(0.1 * 0.3 * 49) = 1 of the top int(0.1 * 49) = 4."""
    attention = torch.rand(400, 49)
    masks = AttentionMask((0.3, 0.3), prob=1)(400, (7, 7), attention).flatten(1)
    by_rank = masks.gather(1, attention.sort(dim=1, descending=True).indices)
    assert (by_rank[:, :4].sum(1) == 3).all() and by_rank[:, 4:14].all() and not by_rank[:, 14:].any()
    shown = (~by_rank[:, :4]).double().mean(0)
    torch.testing.assert_close(shown, torch.full((4, ), 0.25).double(), rtol=0, atol=0.07)


def test_a_small_share_shows_none():
    """r = 0.1: int(0.49) = 0 hints of 4 hidden tokens."""
    attention = torch.rand(10, 49)
    masks = AttentionMask((0.1, 0.1), prob=1)(10, (7, 7), attention).flatten(1)
    assert torch.equal(masks, AttentionMask((0.1, 0.1), prob=1, hint=False)(10, (7, 7), attention).flatten(1))
    assert (masks.sum(1) == 4).all()


def test_hints_are_hidden_tokens_also_below_the_share_they_come_from():
    """r = 0.05 of 100 tokens hides 5, and 2 hints of these leave 3."""
    masks = AttentionMask((0.05, 0.05), prob=1, show=0.5)(50, (10, 10), torch.rand(50, 100))
    assert (masks.flatten(1).sum(1) == 3).all()


def test_one_share_is_drawn_for_the_batch():
    counts = []
    for _ in range(200):
        of_images = AttentionMask((0.2, 0.4), prob=1, hint=False)(5, (10, 10), torch.rand(5, 100)).flatten(1).sum(1)
        assert len(of_images.unique()) == 1
        counts.append(of_images[0].item())
    assert 20 <= min(counts) < 22 and 38 <= max(counts) <= 40 and abs(sum(counts) / 200 - 29.5) < 1.5


@pytest.mark.parametrize('masking', [TokenBlockMask, AttentionMask])
@pytest.mark.parametrize('options, message', [
    (dict(ratio=(0, 0.5)), 'ratio .* 0 < low <= high < 1'),
    (dict(ratio=(0.5, 1)), 'ratio .* got'),
    (dict(ratio=(0.5, 0.1)), 'ratio .* got'),
    (dict(ratio=0.3), 'ratio .* got 0.3'),
    (dict(prob=1.1), 'prob .* got 1.1'),
])
def test_mistakes_of_both(masking, options, message):
    with pytest.raises(UserError, match=message):
        masking(**options)


def test_mistakes():
    with pytest.raises(UserError, match='min_aspect .* got 0'):
        TokenBlockMask(min_aspect=0)
    with pytest.raises(UserError, match='show .* got 1'):
        AttentionMask(show=1)
    with pytest.raises(UserError, match='attention=None for AttentionMask.* or use TokenBlockMask'):
        AttentionMask()(2, (7, 7))
    with pytest.raises(UserError, match=r'= \(2, 49\), got \(2, 4, 49\)'):
        AttentionMask()(2, (7, 7), torch.rand(2, 4, 49))
