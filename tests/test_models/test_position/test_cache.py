"""log Φp is kept between calls, and the kept log Φp is never stale."""
import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage

from pervit_mm.models import BasePosition, PerViT, PerViTPeripheralPosition

IMAGES = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def model():
    return randomize(PerViT(TINY_ARCH, img_size=28)).eval()


def fresh(model, images=IMAGES):
    """Output of a model that has kept nothing."""
    other = PerViT(TINY_ARCH, img_size=28).to(next(model.parameters()).dtype).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        return other(images)[0]


def kept(model, images=IMAGES):
    with torch.no_grad():
        return model(images)[0]


def computed(monkeypatch):
    """A list that grows by one for each block whose Φp is computed."""
    calls = []
    original = PerViTPeripheralPosition.forward_blocks

    def forward_blocks(modules, *args):
        calls.extend([1] * len(modules))
        return original(modules, *args)

    monkeypatch.setattr(PerViTPeripheralPosition, 'forward_blocks', staticmethod(forward_blocks))
    return calls


def test_log_position_is_kept_only_without_gradients(model, monkeypatch):
    calls = computed(monkeypatch)
    kept(model), kept(model)
    assert len(calls) == 3
    model(IMAGES)[0].sum().backward()  # gradients in eval mode, as for Grad-CAM
    assert len(calls) == 6
    assert all(p.grad is not None for p in model.parameters())


def test_threads_may_share_a_model(model):
    """Six grids in four threads, and room for two of them."""
    images = {side: torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(side))
              for side in range(12, 36, 4)}
    expected = {side: fresh(model, x) for side, x in images.items()}
    model.position_cache.max_bytes = 3 * 2 * 4 * 2 * (35 // 4)**4
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda side: (side, kept(model, images[side])), list(images) * 40))
    finally:
        sys.setswitchinterval(before)
    for side, output in found:
        torch.testing.assert_close(output, expected[side], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('fused', [False, True])
def test_nothing_is_stale_after_an_optimizer_step(model, fused):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    before = kept(model)
    model(IMAGES)[0].square().sum().backward()
    optimizer.step()
    after = kept(model)
    torch.testing.assert_close(after, fresh(model), atol=0, rtol=0)
    assert not torch.allclose(after, before)


@pytest.mark.parametrize('name', [
    'position_proj.weight', 'blocks.2.attn.position.conv1.weight', 'blocks.0.attn.position.norm1.weight',
    'blocks.1.attn.position.norm2.bias', 'blocks.1.attn.position.conv2.weight'
])
def test_nothing_is_stale_after_a_change_of_any_position_weight(model, name):
    before = kept(model)
    param = dict(model.named_parameters())[name]
    param.data.mul_(-1.5).add_(0.01)  # a change through .data moves no version counter
    torch.testing.assert_close(kept(model), fresh(model), atol=0, rtol=0)
    assert not torch.equal(kept(model), before)


def test_nothing_is_stale_after_load_state_dict(model):
    kept(model)
    other = randomize(PerViT(TINY_ARCH, img_size=28), scale=0.7)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(kept(model), fresh(model), atol=0, rtol=0)


def test_nothing_is_stale_after_an_ema_swap(model):
    ema = ExponentialMovingAverage(model, momentum=0.3)
    for _ in range(2):  # the first update copies
        for param in model.parameters():
            param.data.add_(0.2 * torch.randn(param.shape))
        ema.update_parameters(model)
    hook = EMAHook()
    hook.src_model, hook.ema_model = model, ema
    before = kept(model)
    hook._swap_ema_parameters()
    assert not torch.equal(kept(model), before)
    torch.testing.assert_close(kept(model), fresh(model), atol=0, rtol=0)
    torch.testing.assert_close(kept(ema.module), fresh(ema.module), atol=0, rtol=0)


def test_nothing_is_stale_after_a_change_of_dtype(model):
    single = kept(model)
    model.double()
    double = kept(model, IMAGES.double())
    torch.testing.assert_close(double, fresh(model, IMAGES.double()), atol=0, rtol=0)
    torch.testing.assert_close(double.float(), single, atol=1e-4, rtol=1e-4)
    model.bfloat16()
    torch.testing.assert_close(
        kept(model, IMAGES.bfloat16()), fresh(model, IMAGES.bfloat16()), atol=0, rtol=0)


def test_copies_of_a_model_start_with_an_empty_cache(model):
    kept(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not other.position_cache.kept and other.position_cache.max_bytes == model.position_cache.max_bytes
        other.position_proj.weight.data.mul_(3)
        torch.testing.assert_close(kept(other), fresh(other), atol=0, rtol=0)
        torch.testing.assert_close(kept(model), fresh(model), atol=0, rtol=0)


def test_nothing_is_stale_after_train_and_eval(model):
    expected = kept(model)
    model.train()
    assert not model.position_cache.kept
    model(IMAGES)[0].sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.05).step()
    model.eval()
    torch.testing.assert_close(kept(model), fresh(model), atol=0, rtol=0)
    assert not torch.equal(kept(model), expected)


def test_gradients_work_after_inference_mode(model):
    with torch.inference_mode():
        inside = model(IMAGES)[0].clone()
    model(IMAGES)[0].sum().backward()
    assert model.position_proj.weight.grad.abs().sum() > 0
    torch.testing.assert_close(kept(model), inside, atol=1e-6, rtol=1e-6)
    log_position = next(iter(model.position_cache.kept.values()))
    assert not log_position.is_inference()
    (torch.ones_like(log_position, requires_grad=True) * log_position).sum().backward()  # it can be used in a graph


def test_grids_are_kept_side_by_side(model, monkeypatch):
    wide = torch.randn(1, 3, 20, 41)
    expected = [fresh(model, images) for images in (IMAGES, wide)]
    calls = computed(monkeypatch)
    for _ in range(2):
        for images, exact in zip((IMAGES, wide), expected):
            torch.testing.assert_close(kept(model, images), exact, atol=0, rtol=0)
    assert len(calls) == 6  # three blocks for each of two grids


def test_the_grid_used_least_recently_goes_first(model, monkeypatch):
    """There is room for the grid of 7 x 7 tokens and one of the two others, 6 x 7 and 7 x 6."""
    model.position_cache.max_bytes = 3 * 4 * 2 * (49**2 + 42**2)
    tall, wide = torch.randn(1, 3, 28, 24), torch.randn(1, 3, 24, 28)
    calls, made = computed(monkeypatch), []
    for images in (IMAGES, tall, IMAGES, wide, IMAGES, tall, wide):
        kept(model, images)
        made.append(len(calls) // 3)
    assert made == [1, 2, 2, 3, 3, 4, 5]  # at the end the 7 x 7 grid had to go too
    assert {key[1] for key in model.position_cache.kept} == {(7, 6), (6, 7)}


def test_the_byte_cap_limits_what_is_kept(model, monkeypatch):
    each = 4 * 2 * 49**2
    model.position_cache.max_bytes = 2 * each
    expected = fresh(model)
    calls = computed(monkeypatch)
    torch.testing.assert_close(kept(model), expected, atol=0, rtol=0)
    torch.testing.assert_close(kept(model), expected, atol=0, rtol=0)
    assert {key[0] for key in model.position_cache.kept} == {0, 1} and len(calls) == 4  # twice the third block


def test_a_block_beyond_the_cap_leaves_room_for_those_behind_it(monkeypatch):
    """The first block is global and too large to keep. The others have windows of 4 x 4."""
    model = randomize(PerViT(TINY_ARCH, img_size=28, window_size=4, global_attn_indexes=(0, ))).eval()
    model.position_cache.max_bytes = 4 * 2 * 49**2 - 1
    calls, images = computed(monkeypatch), IMAGES
    torch.testing.assert_close(kept(model, images), model(images)[0].detach())
    kept(model, images)
    assert {key[0] for key in model.position_cache.kept} == {1, 2}
    assert len(calls) == 3 + 3 + 1  # 3 with gradients, for comparison; 1 for the block that is not kept


def test_a_position_module_without_weights_is_served():
    """A user's module may have no weights, as in ALiBi."""

    class Nearness(BasePosition):
        needs_projection = False

        def forward(self, hw_shape, projection=None):
            n = hw_shape[0] * hw_shape[1]
            order = torch.arange(n, dtype=torch.float32)
            return -(order[:, None] - order).abs().expand(2, n, n)

    model = randomize(PerViT(TINY_ARCH, img_size=28, position_cfg=None)).eval()
    for block in model.blocks:
        block.attn.position = Nearness()
    torch.testing.assert_close(kept(model), model(IMAGES)[0].detach())


def test_windows_stay_kept_when_the_map_changes(monkeypatch):
    model = randomize(PerViT(TINY_ARCH, img_size=28, window_size=4, global_attn_indexes=(1, ))).eval()
    calls = computed(monkeypatch)
    kept(model, torch.randn(1, 3, 40, 24)), kept(model, torch.randn(1, 3, 24, 44))
    assert len(calls) == 4  # three blocks, then the global one again


def test_weights_that_are_not_a_number_are_never_kept(model, monkeypatch):
    model.position_proj.weight.data.fill_(float('nan'))
    calls = computed(monkeypatch)
    kept(model), kept(model)
    assert len(calls) == 6


def test_a_change_of_a_single_weight_tensor_is_noticed():
    """The cache compares a weight with a copy of it. A copy that shares memory with the weight would always agree."""
    arch = dict(embed_dims=(8, ), depths=(1, ), num_heads=2, stem_channels=())
    model = PerViT(arch, img_size=8, position_cfg=dict(type='PerViTRelativePositionBias')).eval()
    images = torch.randn(1, 3, 8, 8)
    before = kept(model, images)
    model.blocks[0].attn.position.table.data.normal_(std=3)
    assert not torch.equal(kept(model, images), before)


@pytest.mark.parametrize('kind', ['PerViTPeripheralPosition', 'PerViTEuclideanPosition'])
def test_nothing_is_stale_after_a_change_of_option_or_module(kind):
    options = dict(img_size=28, position_cfg=dict(type=kind))
    model = randomize(PerViT(TINY_ARCH, **options)).eval()
    wide = torch.randn(1, 3, 48, 48)
    before = kept(model, wide)
    for block in model.blocks:
        block.attn.position.distance_scale = 'fixed'
    fixed = randomize(PerViT(TINY_ARCH, distance_scale='fixed', **options)).eval()
    torch.testing.assert_close(kept(model, wide), kept(fixed, wide), atol=0, rtol=0)
    assert not torch.equal(kept(model, wide), before)
    for block, other in zip(model.blocks, PerViT(TINY_ARCH, **options).blocks):
        other.attn.position.load_state_dict(block.attn.position.state_dict())
        block.attn.position = other.attn.position
    torch.testing.assert_close(kept(model, wide), before, atol=0, rtol=0)


def test_nothing_is_compared_while_a_cuda_graph_is_captured(model, monkeypatch):
    """A comparison waits for the GPU, which a capture forbids."""
    expected = kept(model)
    calls = computed(monkeypatch)
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    monkeypatch.setattr(torch, 'equal', lambda *args: pytest.fail('waits for the GPU'))
    torch.testing.assert_close(kept(model), expected, atol=1e-6, rtol=1e-5)
    assert len(calls) == 3
    monkeypatch.undo()
    calls = computed(monkeypatch)
    kept(model)
    assert not calls, 'what was kept before is still there'


def test_capture_is_not_asked_about_where_cuda_is_not_in_use(model, monkeypatch):
    """torch for the CPU alone raises an error at the question."""
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: False)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: pytest.fail('asked'))
    kept(model)
    assert len(model.position_cache.kept) == 3
