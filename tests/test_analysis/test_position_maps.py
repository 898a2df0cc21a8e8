"""Pictures of Φp show its values."""
import numpy as np
import pytest
from conftest import TINY_ARCH

from pervit_mm.analysis import draw_position_maps
from pervit_mm.models import PerViT


def test_drawn_maps_show_the_values():
    model = PerViT(TINY_ARCH, img_size=28)
    model.init_weights()
    picture = draw_position_maps(model, query=(3, 1))
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    scale, left, top = 8, 6, 34  # 56 px for 7 tokens, margins
    phi = model.position_terms((7, 7))[0].exp().reshape(2, 7, 7, 7, 7)[0, 3, 1]
    import matplotlib
    for row, col in ((0, 0), (3, 3), (6, 6)):
        color = picture[top + row * scale + 4, left + col * scale + 4]
        expected = 255 * np.array(matplotlib.colormaps['viridis'](phi[row, col].item())[:3])
        np.testing.assert_allclose(color, expected, atol=1)
    assert picture[top + 3 * scale, left + scale].tolist() == [255, 0, 0]  # the query's frame
    with pytest.raises(ValueError, match=r'query .* must be a token .* of the 7 x 7 grid, got \(7, 0\)'):
        draw_position_maps(model, (7, 0))


@pytest.mark.parametrize('kwargs', [
    dict(window_size=5, global_attn_indexes=(1, )), dict(window_size=10, global_attn_indexes=(0, 2)),
    dict(position_cfg=dict(type='PerViTRelativePositionBias'))
])
def test_maps_of_windows_and_variants_are_drawn(kwargs):
    model = PerViT(TINY_ARCH, img_size=28, **kwargs)
    model.init_weights()
    picture = draw_position_maps(model)
    assert picture.shape[0] > 2 * 50 and picture.shape[1] > 3 * 50
