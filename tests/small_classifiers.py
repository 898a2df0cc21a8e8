"""Small classifiers of random weights as a config and a checkpoint, and images for them."""
import cv2
import numpy as np
import torch
from conftest import TINY_ARCH, randomize
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

#: Side of the images that the configs make.
SIDE = 16
CONFIG = '''
custom_imports = dict(imports=['pervit_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=3, mean={mean}, std={std}, to_rgb={to_rgb})
model = dict(type='ImageClassifier', backbone=dict({backbone}), neck={neck},
    head=dict(type='LinearClsHead', num_classes=3, in_channels={width}, topk=(1, )))
test_dataloader = dict(dataset=dict(
    type='CustomDataset', data_root={data!r}, pipeline=[
        dict(type='LoadImageFromFile'), dict(type='Resize', scale=({side}, {side})), dict(type='PackInputs')]))
'''
POOL = dict(type='GlobalAveragePooling')
_PERVIT = f"type='PerViT', arch={TINY_ARCH}, img_size={SIDE}"
#: By name: arguments of the backbone, width of its output, neck.
KINDS = {
    'pervit': (_PERVIT, 24, None),
    'bare': (f'{_PERVIT}, position_cfg=None', 24, None),
    'windows': (f'{_PERVIT}, window_size=3', 24, None),
    'gray': (f'{_PERVIT}, in_channels=1', 24, None),
    'vit': (f"type='VisionTransformer', img_size={SIDE}, patch_size=4, "
            'arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)', 16, None),
    'resnet': ("type='ResNet', depth=18, base_channels=8, stem_channels=8", 64, POOL),
    'convnext': ("type='ConvNeXt', arch=dict(depths=[1, 1], channels=[8, 16]), out_indices=1", 16, None),
}


def write_model(folder, kind, name=None, data=''):
    """Write ``{name}.py`` and ``{name}.pth`` into a folder. Return the paths, as text."""
    backbone, width, neck = KINDS[kind]
    gray = kind == 'gray'
    config, weights = (folder / f'{name or kind}.{suffix}' for suffix in ('py', 'pth'))
    config.write_text(CONFIG.format(
        backbone=backbone, width=width, neck=neck, data=str(data), side=SIDE, to_rgb=not gray,
        mean=[90.] if gray else [100., 110., 120.], std=[60.] if gray else [50., 60., 70.]))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = randomize(MODELS.build(Config.fromfile(config).model))
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=('a', 'b', 'c')))), weights)
    return str(config), str(weights)


def write_images(folder, count=6, side=20):
    """Write images of noise of classes a, b and c: ``a/0.png``, ``b/1.png``, ``c/2.png``, ``a/3.png`` and so on."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / 'abc'[number % 3] / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    return folder


def write_world(folder, kinds):
    """Write images into ``data`` of a folder, and a model of each kind that reads them. Return the folder."""
    write_images(folder / 'data')
    for kind in kinds:
        write_model(folder, kind, data=folder / 'data')
    return folder
