"""The type of a part of a config, in each of its forms."""
import pytest
from mmengine.hooks import EMAHook

from pervit_mm.utils.type_names import type_name


@pytest.mark.parametrize('settings, name', [
    (dict(type='EMAHook'), 'EMAHook'), (dict(type='mmengine.EMAHook', momentum=0.1), 'EMAHook'),
    (dict(type=EMAHook), 'EMAHook'), (dict(), ''), (dict(type=None), '')])
def test_a_type_has_one_name(settings, name):
    assert type_name(settings) == name
