"""The contract between the backbone and position modules."""
import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.registry import MODELS
from torch import nn

from pervit_mm.models import BasePosition, PerViT, PerViTPeripheralPosition
from pervit_mm.models.position import make_log_positions

IMAGES = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(5))


@MODELS.register_module(force=True)
class Nearness(BasePosition):
    """A user's own module, with a slope for each head and an option that can change."""

    needs_projection = False

    def __init__(self, num_heads, hidden_channels, pretrain_hw, power=1.):
        super().__init__()
        self.slope = nn.Parameter(torch.ones(num_heads))
        self.power = power

    def init_position(self, values):
        nn.init.constant_(self.slope, values.strength)

    def cache_key(self):
        return (self.power, )

    def forward(self, hw_shape, projection=None):
        rows, cols = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in hw_shape), indexing='ij')
        places = torch.stack([rows.flatten(), cols.flatten()], 1)
        return -self.slope[:, None, None] * torch.cdist(places, places)**self.power


@MODELS.register_module(force=True)
class OldStyle(nn.Module):
    """A module with only the two methods that were enough before there was a base class."""

    def __init__(self, num_heads, hidden_channels, pretrain_hw):
        super().__init__()

    def forward(self, hw_shape, projection):
        return torch.zeros(2, hw_shape[0] * hw_shape[1], hw_shape[0] * hw_shape[1])

    def init_position(self, values):
        pass


def test_a_module_of_ones_own_trains_and_is_kept():
    model = PerViT(TINY_ARCH, img_size=28, position_cfg=dict(type='Nearness'))
    model.init_weights()
    assert model.position_proj is None
    assert [block.attn.position.slope[0].item() for block in model.blocks] == pytest.approx([3, 1.505, 0.01])
    model(IMAGES)[0].sum().backward()
    assert all(block.attn.position.slope.grad.abs().sum() > 0 for block in model.blocks)
    model.eval()
    with torch.no_grad():
        before = model(IMAGES)[0]
        assert torch.equal(model(IMAGES)[0], before) and len(model.position_cache.kept) == 3
        for block in model.blocks:
            block.attn.position.power = 2.
        assert not torch.equal(model(IMAGES)[0], before), 'cache_key says that an option has changed'


def test_a_module_without_the_base_class_fails_with_a_sentence():
    message = (r'must be a pervit_mm.models.BasePosition, got a OldStyle: derive its class from BasePosition, keep its '
               'methods forward and init_position')
    with pytest.raises(ValueError, match=rf"^position_cfg\['type'\]='OldStyle' {message}"):
        PerViT(TINY_ARCH, position_cfg=dict(type='OldStyle'))
    model = PerViT(TINY_ARCH, img_size=28)
    model.blocks[1].attn.position = OldStyle(2, 8, (7, 7))
    with pytest.raises(ValueError, match=rf'^blocks\[1\].attn.position {message}'):
        model(IMAGES)


def test_missing_methods_are_named():
    class Empty(BasePosition):
        pass

    with pytest.raises(NotImplementedError, match='Empty must have forward'):
        Empty()((7, 7), None)
    with pytest.raises(NotImplementedError, match='Empty must have init_position'):
        Empty().init_position(None)


def test_blocks_are_made_together_by_their_group_key(monkeypatch):
    model = randomize(PerViT(TINY_ARCH, img_size=28))
    modules = [block.attn.position for block in model.blocks]
    calls, made = [], PerViTPeripheralPosition.forward_blocks

    def forward_blocks(modules, *args):
        calls.append(len(modules))
        return made(modules, *args)

    monkeypatch.setattr(PerViTPeripheralPosition, 'forward_blocks', staticmethod(forward_blocks))
    make_log_positions(modules, [(7, 7)] * 3, model.position_proj)
    make_log_positions(modules, [(7, 7), (5, 5), (7, 7)], model.position_proj)
    modules[0].requires_grad_(False)
    make_log_positions(modules, [(7, 7)] * 3, model.position_proj)
    assert calls == [3, 2, 1, 1, 2]
    assert make_log_positions([None], [(7, 7)], None) == [None]


def test_a_subclass_with_a_forward_of_its_own_is_never_passed_over():
    class Flat(PerViTPeripheralPosition):
        def forward(self, hw_shape, projection):
            return 0 * super().forward(hw_shape, projection)

    class Renamed(PerViTPeripheralPosition):
        pass

    flat, renamed = Flat(2, 8, (7, 7)), Renamed(2, 8, (7, 7))
    assert flat.group_key() is None and renamed.group_key() is not None
    assert renamed.group_key() != PerViTPeripheralPosition(2, 8, (7, 7)).group_key(), 'its forward_blocks may differ'
    model = PerViT(TINY_ARCH, img_size=28)
    for log_position in make_log_positions([Flat(2, 8, (7, 7)), flat], [(4, 4)] * 2, model.position_proj):
        assert (log_position == 0).all()
