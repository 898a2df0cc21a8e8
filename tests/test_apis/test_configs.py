"""Reading configs, and the image size that they test with."""
from pathlib import Path

import pytest
from mmengine.config import Config

from pervit_mm.apis.configs import image_size_of, load_config
from pervit_mm.utils.errors import UserError

NANO = Path(__file__).parents[2] / 'configs' / 'pervit_nano_fashion-mnist.py'


def test_image_size_is_that_of_the_test_pipeline():
    def size(*steps, **options):
        cfg = dict(default_scope='mmpretrain', model=dict(backbone=dict(img_size=(28, 30))),
                   test_dataloader=dict(dataset=dict(pipeline=list(steps))))
        return image_size_of(Config({**cfg, **options}))

    crop, resize = dict(type='mmpretrain.CenterCrop', crop_size=24), dict(type='Resize', scale=(36, 32))
    assert size(resize, crop) == (24, 24) and size(crop, resize) == (32, 36)
    assert size(dict(resize, keep_ratio=True)) == (28, 30) and size(test_dataloader=None) == (28, 30)
    dense = dict(default_scope='mmseg')
    assert size(crop, **dense) == (24, 24) and size(dict(resize, keep_ratio=True), **dense) is None
    assert image_size_of(Config.fromfile(NANO)) == (28, 28)
    assert image_size_of(Config.fromfile(NANO.with_stem('pervit_small_384px'))) == (384, 384)


def test_overrides_are_merged():
    cfg = load_config(NANO, {'train_cfg.max_epochs': 3, 'efficient_conv_bn_eval': True})
    assert cfg.train_cfg.max_epochs == 3 and cfg.efficient_conv_bn_eval is True


@pytest.mark.parametrize('name, content, message', [
    ('nowhere.py', None, 'nowhere.py.*is not a file: give the path of a config'),
    ('broken.py', "_base_ = 'nowhere.py'", r'broken.py.*cannot be read \(FileNotFoundError'),
    ('broken.py', 'model = dict(', r'broken.py.*cannot be read \(SyntaxError'),
    ('broken.py', 'raise KeyError("key")', r'broken.py.*cannot be read \(KeyError'),
    ('config.txt', 'model = None', r'config.txt.*cannot be read \(OSError.*give a config in .py, .json or .yml'),
])
def test_what_cannot_be_read_is_one_sentence(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / name)


def test_unknown_overrides_and_missing_toolboxes_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="^--cfg-options train_confg.max_epochs: the config has no 'train_confg'; "):
        load_config(NANO, {'train_confg.max_epochs': 1})
    # The config has used these names, and their new values would go nowhere.
    custom = NANO.with_name('pervit_tiny_finetune_custom.py')
    with pytest.raises(UserError, match='^--cfg-options num_classes: the config used num_classes while it was read, .*'
                                        'such as model.head.num_classes, data_preprocessor.num_classes$'):
        load_config(custom, {'num_classes': 3})
    with pytest.raises(UserError, match='such as model.backbone.init_cfg.checkpoint$'):
        load_config(custom, {'model.head.num_classes': 3, 'checkpoint': 'x.pth'})
    path = tmp_path / 'config.py'
    path.write_text("default_scope = 'mmseg'")
    monkeypatch.setattr('pervit_mm.apis.configs.find_spec', lambda name: None)
    with pytest.raises(UserError, match="default_scope='mmseg', but mmseg isn't installed: pip install mmsegmentation"):
        load_config(path)
