"""What the tests of configs/detection and configs/segmentation share."""
import re
from functools import cache
from pathlib import Path

from mmengine.config import Config

CONFIGS = Path(__file__).parents[1] / 'configs'
NAMES = sorted(f'{folder}/{path.stem}' for folder in ('detection', 'segmentation')
               for path in (CONFIGS / folder).glob('*.py') if 'fashion-scenes' not in path.stem)
RECIPES = {
    'detection': ('mask-rcnn_pervit-{}_fpn_1x_coco', 'mask-rcnn_pervit-{}_fpn_ms-crop-3x_coco',
                  'cascade-mask-rcnn_pervit-{}_fpn_ms-crop-3x_coco', 'retinanet_pervit-{}_fpn_1x_coco'),
    'segmentation': ('pervit-{}_upernet_8xb2-amp-160k_ade20k-512x512', 'pervit-{}_fpn_8xb4-amp-80k_ade20k-512x512',
                     'pervit-{}_upernet_8xb2-amp-80k_cityscapes-512x1024'),
}
GLOBAL = 'detection/mask-rcnn_pervit-tiny-global4_fpn_1x_coco'
TINY = [name for name in NAMES if 'pervit-tiny_' in name]
DROP_PATH = dict(tiny=0.1, small=0.2, medium=0.3)
CLASSES = dict(coco=80, ade20k=150, cityscapes=19)


@cache
def read(name):
    """The resolved config. It is shared, so no test may change it."""
    return Config.fromfile(str(CONFIGS / f'{name}.py'))


def size_of(name):
    return re.search('pervit-(tiny|small|medium)', name)[1]


def data_of(name):
    return re.search('coco|ade20k|cityscapes', name)[0]


def differences(old, new, path=''):
    """Paths at which two resolved configs differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {p for key in {**old, **new} for p in differences(
            old.get(key, '(none)'), new.get(key, '(none)'), f'{path}.{key}' if path else key)}
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)) and len(old) == len(new):
        return {p for i, pair in enumerate(zip(old, new)) for p in differences(*pair, f'{path}.{i}')}
    return set() if type(old) is type(new) and old == new else {path}
