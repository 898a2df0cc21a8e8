"""Attention against object masks: attention that equals the mask gives 1, and uniform attention gives chance."""
from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import TINY_ARCH, randomize
from made_items import make_items

from pervit_mm.analysis.capture import capture
from pervit_mm.datasets import FashionScenes
from pervit_mm.evaluation.object_masks import attention_mask_iou, mask_average_precision, mask_iou, token_masks
from pervit_mm.models import PerViT
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')


def to_each_query(received):
    """Attention ``(B, nH, N, N)`` whose rows all equal ``received``."""
    return received[:, :, None].expand(-1, -1, received.shape[-1], -1)


def iou(chosen, objects):
    return len(chosen & objects) / len(chosen | objects)


def test_attention_that_equals_the_mask_gives_one_and_its_opposite_gives_zero():
    masks = torch.zeros(2, 12, 16, dtype=torch.uint8)
    masks[0, 4:8, 4:12] = 3  # two tokens of the 3 x 4 grid, of class 3
    masks[1, :, :8] = 1
    objects = token_masks(masks, (3, 4))
    assert objects.sum(1).tolist() == [2, 6] and objects[0].nonzero().flatten().tolist() == [5, 6]
    received = torch.stack((objects.float(), (~objects).float()), 1)
    result = mask_iou(to_each_query(received / received.sum(-1, keepdim=True)), masks, (3, 4))
    assert result.iou.tolist() == [[1, 0], [1, 0]]


def test_tokens_count_as_object_by_area():
    label_map = FashionScenes(*make_items(0), 'test').scene(0).label_map()
    h, w = (side // 8 for side in label_map.shape)
    pixels = torch.from_numpy(label_map[:8 * h, :8 * w].astype(np.int64))
    found = token_masks(pixels[None], (h, w))[0].reshape(h, w)
    for row in range(h):
        for col in range(w):
            share = (pixels[8 * row:8 * row + 8, 8 * col:8 * col + 8] > 0).double().mean().item()
            assert found[row, col].item() == (share > 0.5)
    assert 0 < found.sum() < h * w
    half = torch.zeros(1, 2, 2, dtype=torch.bool)
    half[0, 0] = True
    assert not token_masks(half, (1, 1)).any()  # exactly half is not more than half


def test_the_top_tokens_are_compared_with_the_mask():
    masks = torch.zeros(1, 2, 3)
    masks[0, 0, 0] = masks[0, 0, 1] = masks[0, 1, 2] = 1  # tokens 0, 1, 5
    received = torch.tensor([[[.3, .05, .1, .15, .05, .35]]])  # the top three are 5, 0, 3
    result = mask_iou(to_each_query(received), masks, (2, 3))
    assert result.iou.item() == pytest.approx(iou({5, 0, 3}, {0, 1, 5}))


def test_ties_and_chance_are_the_mean_over_all_choices():
    masks = torch.zeros(1, 2, 3)
    masks[0, 0, :2] = masks[0, 1, 2] = 1  # tokens 0, 1, 5
    objects = {0, 1, 5}
    received = torch.tensor([[[.4, .1, .1, .1, .1, .2], [1 / 6] * 6]])  # head 0: 0 and 5 are sure, one of the others
    result = mask_iou(to_each_query(received), masks, (2, 3))
    expected = np.mean([iou({0, 5, other}, objects) for other in (1, 2, 3, 4)])
    chance = np.mean([iou(set(chosen), objects) for chosen in combinations(range(6), 3)])
    assert result.iou[0].tolist() == pytest.approx([expected, chance])
    assert result.chance.tolist() == pytest.approx([chance])


@pytest.mark.parametrize('side', [7, 14, 28])
def test_even_attention_gives_chance_on_large_grids(side):
    """float32 rounds the means of equal columns in two ways there."""
    masks = torch.zeros(1, side, side)
    masks[0, side // 2:, :side // 3] = 1
    result = mask_iou(torch.full((1, 1, side**2, side**2), 1 / side**2), masks, (side, side))
    torch.testing.assert_close(result.iou[0], result.chance)


def test_images_without_objects_are_nan_and_full_ones_are_one():
    masks = torch.stack((torch.zeros(4, 4), torch.ones(4, 4)))
    result = mask_iou(torch.rand(2, 3, 4, 4), masks, (2, 2))
    assert result.iou[0].isnan().all() and result.chance[0].isnan()
    assert (result.iou[1] == 1).all() and result.chance[1] == pytest.approx(1)


def test_a_model_is_measured_block_by_block():
    model = randomize(PerViT(TINY_ARCH, img_size=28)).train()
    batches = [(torch.randn(count, 3, 28, 28), torch.rand(count, 28, 28) > 0.5) for count in (2, 1)]
    found = attention_mask_iou(model, batches)
    assert model.training and list(found) == [0, 1, 2]
    model.eval()
    images, masks = (torch.cat(parts) for parts in zip(*batches))
    with torch.no_grad(), capture(model) as record:
        model(images)
    for block in record.blocks:
        expected = mask_iou(block.attention, masks, block.hw_shape)
        torch.testing.assert_close(found[block.index].iou, expected.iou)
        torch.testing.assert_close(found[block.index].chance, expected.chance)


def test_batches_of_mmsegmentation_bring_their_label_maps():
    pytest.importorskip('mmseg')
    from mmengine.structures import PixelData
    from mmseg.models import SegDataPreProcessor
    from mmseg.structures import SegDataSample
    model = torch.nn.Module()
    model.backbone = randomize(PerViT(TINY_ARCH, img_size=28))
    model.data_preprocessor = SegDataPreProcessor(mean=[10.] * 3, std=[5.] * 3)
    image, labels = torch.randint(0, 256, (3, 28, 32), dtype=torch.uint8), torch.randint(0, 2, (1, 28, 32))
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
    found = attention_mask_iou(model, [dict(inputs=[image], data_samples=[sample])])
    expected = attention_mask_iou(model, [(((image - 10.) / 5)[None], labels)])
    assert torch.equal(found[2].iou, expected[2].iou)
    # In testing MMSegmentation pads the inputs alone, to the right and below. Labels have the size of the file.
    model.data_preprocessor = SegDataPreProcessor(mean=[10.] * 3, std=[5.] * 3, test_cfg=dict(size_divisor=40))
    large = SegDataSample(gt_sem_seg=PixelData(data=labels.repeat_interleave(2, 1).repeat_interleave(2, 2)),
                          metainfo=dict(img_shape=(28, 32)))
    found = attention_mask_iou(model, [dict(inputs=[image], data_samples=[large])])
    pad = torch.nn.functional.pad
    expected = attention_mask_iou(model, [(pad((image - 10.) / 5, (0, 8, 0, 12))[None], pad(labels, (0, 8, 0, 12)))])
    assert torch.equal(found[2].iou, expected[2].iou)
    with pytest.raises(UserError, match='must have label maps'):
        attention_mask_iou(model, [dict(inputs=[image], data_samples=[SegDataSample()])])


def test_mistakes_are_told():
    model, images = PerViT(TINY_ARCH, img_size=28), torch.rand(1, 3, 28, 28)
    for call, message in (
            (lambda: token_masks(torch.zeros(4, 4), (2, 2)), r'masks must be \(B, h, w\), got the shape \(4, 4\)'),
            (lambda: mask_iou(torch.rand(1, 1, 9, 9), torch.zeros(1, 4, 4), (2, 2)), r'must be \(..., 4, 4\)'),
            (lambda: mask_iou(torch.rand(2, 1, 4, 4), torch.zeros(1, 4, 4), (2, 2)), 'a mask for each image'),
            (lambda: attention_mask_iou(model, []), 'batches is empty'),
            (lambda: attention_mask_iou(model, [images]), 'pairs .* got Tensor'),
            (lambda: attention_mask_iou(model, [(images, torch.zeros(1, 14, 14))]), 'in the size of the inputs')):
        with pytest.raises(UserError, match=message):
            call()


def test_average_precision_is_the_mean_precision_at_each_object_token():
    pytest.importorskip('sklearn')
    masks = torch.zeros(2, 2, 3)
    masks[0, 0, 0] = masks[0, 0, 1] = masks[0, 1, 2] = 1  # tokens 0, 1, 5
    received = torch.tensor([[.3, .05, .1, .15, .06, .35], [.3, .25, 0, 0, 0, .45]]).expand(2, -1, -1)
    found = mask_average_precision(received, masks, (2, 3))
    # In the first head the order of tokens is 5, 0, 3, 2, 4, 1: precision is 1, 1 and 3 / 6 at the objects.
    assert found[0].tolist() == pytest.approx([(1 + 1 + 3 / 6) / 3, 1])
    assert found[1].isnan().all(), 'no object'
    with pytest.raises(UserError, match=r'received must be \(B, nH, N\) for 2 masks'):
        mask_average_precision(received[:1], masks, (2, 3))
