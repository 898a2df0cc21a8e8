"""Group corruption hides as much as it says, tells every pixel of it, and takes others' pixels from their place."""
import pytest
import torch
from mmengine.registry import MODELS

from pervit_mm.selfsup.corruption import GroupCorruption
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')
H, W = 24, 30


def numbered(batch):
    """Pixel ``1000 * image + place + 1``: every pixel tells its image and its place, and none is 0."""
    return (1000 * torch.arange(batch)[:, None] + torch.arange(H * W) + 1.).view(batch, 1, H, W).repeat(1, 2, 1, 1)


def test_what_the_mask_leaves_is_untouched_and_the_rest_is_not():
    images = numbered(16)
    before = images.clone()
    corrupted, mask = MODELS.build(dict(type='GroupCorruption'))(images)
    assert torch.equal(images, before)
    assert mask.dtype == torch.bool and mask.shape == (16, 1, H, W) and corrupted.shape == images.shape
    assert torch.equal((corrupted != images).all(1, keepdim=True), mask)
    assert torch.equal((corrupted != images).any(1, keepdim=True), mask)


@pytest.mark.parametrize('ratio, max_side', [(0.5, 0.3), (0.2, 0.5), (0.75, 0.15)])
def test_zeros_cover_the_ratio_and_less_than_one_rectangle_more(ratio, max_side):
    corrupted, mask = GroupCorruption(ratio, max_side, replace_prob=0)(numbered(64))
    shares = mask.flatten(1).double().mean(1)
    assert shares.min() >= ratio and shares.max() < ratio + max_side**2
    assert torch.equal((corrupted == 0).all(1, keepdim=True), mask) and len(set(shares.tolist())) > 1


def test_rectangles_have_every_side_up_to_the_largest_and_reach_every_border():
    """A ratio of almost nothing leaves one rectangle in an image."""
    _, mask = GroupCorruption(1e-6, 0.2, replace_prob=0)(torch.ones(1500, 1, H, W))
    mask = mask[:, 0]
    heights, widths = mask.any(2).sum(1), mask.any(1).sum(1)
    assert torch.equal(mask.sum((1, 2)), heights * widths)
    # Whole rectangles: the rows are one run, and so are the columns.
    for runs in (mask.any(2), mask.any(1)):
        assert ((runs[:, 1:] & ~runs[:, :-1]).sum(1) + runs[:, 0] == 1).all()
        assert runs[:, 0].any() and runs[:, -1].any()
    assert heights.unique().tolist() == [1, 2, 3, 4] and widths.unique().tolist() == [1, 2, 3, 4, 5, 6]
    assert heights.double().mean().item() == pytest.approx(2.5, abs=0.1)
    assert widths.double().mean().item() == pytest.approx(3.5, abs=0.15)


@pytest.mark.parametrize('batch', [2, 3, 16])
def test_replaced_pixels_come_from_one_other_image_at_the_same_place(batch):
    images = numbered(batch)
    places = torch.arange(H * W).view(H, W)
    shifts = set()
    for _ in range(20):
        corrupted, mask = GroupCorruption(replace_prob=1, replace_ratio=0.3)(images)
        replaced = mask & (corrupted != 0)
        image, row, column = replaced[:, 0].nonzero(as_tuple=True)
        values = corrupted[:, 0][image, row, column].long() - 1
        assert torch.equal(values % 1000, places[row, column])
        shift = ((image - values // 1000) % batch).unique()
        assert len(shift) == 1 and shift.item() != 0
        shifts.add(shift.item())
        shares = replaced[:, 0].flatten(1).double().mean(1)
        assert shares.min() >= 0.3 and shares.max() < 0.3 + 0.3**2
        assert torch.equal(replaced.all(1, keepdim=True), mask)
    assert len(shifts) > 1 or batch == 2


def test_the_share_of_images_with_pixels_of_others_is_the_probability():
    corrupted, mask = GroupCorruption(replace_prob=0.25)(numbered(600))
    given = (mask & (corrupted != 0)).flatten(1).any(1).double().mean().item()
    assert given == pytest.approx(0.25, abs=0.05)


def test_a_batch_of_one_gets_zeros_alone():
    corrupted, mask = GroupCorruption(replace_prob=1)(numbered(1))
    assert (corrupted[mask.expand_as(corrupted)] == 0).all() and 0.5 <= mask.double().mean() < 0.59


def test_the_same_seed_corrupts_the_same_and_keeps_the_dtype():
    images, found = numbered(8).bfloat16(), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(GroupCorruption()(images))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][1], found[2][1]) and found[0][0].dtype == torch.bfloat16


@pytest.mark.parametrize('options, message', [
    (dict(ratio=0), 'ratio of GroupCorruption .* got 0'),
    (dict(ratio=1), 'ratio of GroupCorruption .* got 1'),
    (dict(replace_ratio=1.5), 'replace_ratio of GroupCorruption .* got 1.5'),
    (dict(replace_prob=-0.1), 'replace_prob of GroupCorruption .* got -0.1'),
    (dict(max_side=0), 'max_side of GroupCorruption .* got 0'),
    (dict(max_side='0.3'), "max_side of GroupCorruption .* got '0.3'"),
])
def test_mistakes_in_arguments(options, message):
    with pytest.raises(UserError, match=message):
        GroupCorruption(**options)


def test_mistakes_in_images():
    with pytest.raises(UserError, match=r'must be a batch \(B, C, h, w\), got \(1, 28, 28\)'):
        GroupCorruption()(torch.rand(1, 28, 28))
    with pytest.raises(UserError, match='max_side=0.3 of GroupCorruption is less than a pixel of images of 28 x 3'):
        GroupCorruption()(torch.rand(2, 1, 28, 3))
