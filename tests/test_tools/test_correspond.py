"""tools/analysis_tools/correspond.py and propagate.py on made images, with a small model of random weights."""
import re
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

import pervit_mm  # noqa: F401  (registers everything)

pytest.importorskip('mmpretrain')
pytest.importorskip('sklearn')
pytestmark = pytest.mark.usefixtures('one_thread')

TOOLS = Path(__file__).parents[2] / 'tools' / 'analysis_tools'
CONFIG = '''
custom_imports = dict(imports=['pervit_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=3, mean=[100.] * {channels}, std=[60.] * {channels}, to_rgb={channels} == 3),
    backbone=dict(type='{kind}', {backbone}),
    neck={neck},
    head=dict(type='LinearClsHead', num_classes=3, in_channels={width}, topk=(1, )))
test_dataloader = dict(dataset=dict(
    type='CustomDataset', pipeline=[dict(type='Resize', scale=16), dict(type='PackInputs')]))
'''
PERVIT = dict(channels=3, kind='PerViT', backbone=f'arch={TINY_ARCH}, img_size=16', neck=None, width=24)
GRAY = {**PERVIT, 'channels': 1, 'backbone': f'{PERVIT["backbone"]}, in_channels=1'}
RESNET = dict(channels=3, kind='ResNet', backbone='depth=18, base_channels=8, stem_channels=8', width=64,
              neck=dict(type='GlobalAveragePooling'))


def model_in(folder, settings):
    """Write a config and a checkpoint of random weights. Return the arguments that name them."""
    folder.mkdir()
    (folder / 'config.py').write_text(CONFIG.format(**settings))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(Config.fromfile(folder / 'config.py').model)
    torch.save(dict(state_dict=randomize(model).state_dict(), meta={}), folder / 'weights.pth')
    return [folder / 'config.py', '--weights', folder / 'weights.pth', '--device', 'cpu']


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Models and images. Three images have the same noisy square, at other places; two files are none."""
    folder = tmp_path_factory.mktemp('world')
    rng = np.random.default_rng(0)
    square = rng.integers(100, 256, (16, 16, 3), dtype=np.uint8)
    (folder / 'frames').mkdir()
    for number in range(3):
        image = np.zeros((32, 48, 3), np.uint8)
        image[8:24, 8 + 4 * number:24 + 4 * number] = square
        cv2.imwrite(str(folder / 'frames' / f'{number}.png'), image)
    mask = np.zeros((32, 48), np.uint8)
    mask[8:24, 8:24] = 5
    palette = Image.fromarray(mask, 'P')
    palette.putpalette(list(rng.integers(0, 256, 768)))
    palette.save(folder / 'frames' / 'mask.png')
    cv2.imwrite(str(folder / 'small.png'), mask[:, :40])
    cv2.imwrite(str(folder / 'many.png'), (np.arange(32 * 48) % 65).astype(np.uint8).reshape(32, 48))
    cv2.imwrite(str(folder / 'other.png'), np.zeros((32, 40, 3), np.uint8))
    (folder / 'broken.png').write_bytes(b'no image')
    return folder


@pytest.fixture(scope='module')
def models(world):
    return {name: model_in(world / name, settings)
            for name, settings in dict(pervit=PERVIT, gray=GRAY, resnet=RESNET).items()}


def run(tool, *args):
    """The tool's main in this process."""
    runpy.run_path(str(TOOLS / tool))['main']([str(arg) for arg in args])


def refused(tool, *args):
    """The one line that the tool ends with."""
    with pytest.raises(SystemExit) as end:
        run(tool, *args)
    assert '\n' not in end.value.code and end.value.code.startswith(f'tools/analysis_tools/{tool}: ')
    return end.value.code


def frames(world, *numbers):
    return [world / 'frames' / f'{number}.png' for number in numbers]


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize('name, options', [('pervit', []), ('gray', ['--facet', 'token']), ('pervit', ['--block', 0])])
def test_pictures_and_masks_are_written(world, models, tmp_path, capsys, name, options):
    run('correspond.py', models[name][0], *frames(world, 0, 1, 2), *models[name][1:], '--size', 32, 48, '--pairs', 4,
        '--cosegment', '--out', tmp_path, *options)
    counts = re.search('neighbor: (.*?)[.]', capsys.readouterr().out)[1].split(', ')
    assert len(counts) == 2 and all(0 < int(count) < 8 * 12 for count in counts)
    # 32 x 48 pixels are drawn 12 times as large.
    assert read(tmp_path / 'pairs.png').shape == (2 * 384 + 8, 2 * 576 + 12, 3)
    assert read(tmp_path / 'pca.png').shape == (2 * 384 + 8, 3 * 576 + 16, 3)
    assert read(tmp_path / 'cosegmentation.png').shape == (384, 3 * 576 + 16, 3)
    for number in range(3):
        mask = read(tmp_path / 'masks' / f'{number}.png')
        assert mask.shape == (32, 48) and set(np.unique(mask)) <= {0, 255}
    seen = read(tmp_path / 'pca.png')[6:384:12, 6:576:12].max(axis=2) > 50
    assert seen.sum() == 16 * 16 and seen[8:24, 8:24].all(), 'the first image'


def test_an_image_matches_itself_token_by_token(world, models, tmp_path, capsys):
    rng = np.random.default_rng(1)
    for name in ('a.png', 'b.png'):
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    (tmp_path / 'b.png').write_bytes((tmp_path / 'a.png').read_bytes())
    run('correspond.py', models['pervit'][0], tmp_path, *models['pervit'][1:], '--size', 32, '--out', tmp_path / 'out')
    assert 'neighbor: 64. ' in capsys.readouterr().out
    # By default the grid is 28 x 28.
    run('correspond.py', models['pervit'][0], tmp_path, *models['pervit'][1:], '--out', tmp_path / 'out')
    assert 'neighbor: 784. ' in capsys.readouterr().out
    run('correspond.py', models['resnet'][0], tmp_path, *models['resnet'][1:], '--facet', 'token', '--block', 1,
        '--size', 64, '--out', tmp_path / 'out')
    assert 'neighbor: 256. ' in capsys.readouterr().out


def test_bad_images_and_options_get_one_sentence(world, models, tmp_path):
    config, *rest = models['pervit']
    rest += ['--size', 16, '--out', tmp_path]
    one, two = frames(world, 0, 1)
    assert 'at least two that can be read are needed, got 1' in refused('correspond.py', config, one, *rest)
    message = refused('correspond.py', config, one, world / 'broken.png', *rest)
    assert "got 1; image '" in message and 'broken.png' in message
    message = refused('correspond.py', config, one, world / 'broken.png', two, *rest)
    assert 'broken.png' in message and 'Others done: 2' in message and (tmp_path / 'pairs.png').is_file()
    assert "names such as '0' belong to several files" in refused('correspond.py', config, one, one, *rest)
    assert 'block (--block) must be from -3 to 2' in refused('correspond.py', config, one, two, *rest, '--block', 3)
    assert 'count must be a number of pairs' in refused('correspond.py', config, one, two, *rest, '--pairs', 0)
    config, *rest = models['resnet']
    message = refused('correspond.py', config, one, two, *rest, '--size', 64, '--out', tmp_path)
    assert 'the backbone ResNet, which has no attention: give facet token' in message
    with pytest.raises(SystemExit, match='2'):
        run('correspond.py', config, one, two, *rest, '--size', 0)


@pytest.mark.parametrize('options', [[], ['--protocol', 'sfc'], ['--block', 0, 1]])
def test_masks_follow_the_object(world, models, tmp_path, capsys, options):
    # The mask lies beside the frames, and is none of them.
    run('propagate.py', models['pervit'][0], world / 'frames', world / 'frames' / 'mask.png', *models['pervit'][1:],
        '--size', 32, 48, '--out', tmp_path, *(options or ['--block', 0]))
    assert capsys.readouterr().out.endswith(f'3 frames: masks in {tmp_path}/masks, pictures in {tmp_path}/overlays\n')
    assert sorted(path.name for path in (tmp_path / 'masks').iterdir()) == ['0.png', '1.png', '2.png']
    for number in range(3):
        mask, expected = read(tmp_path / 'masks' / f'{number}.png'), np.zeros((32, 48), np.uint8)
        expected[8:24, 8 + 4 * number:24 + 4 * number] = 5
        assert set(np.unique(mask)) == {0, 5}
        assert ((mask == 5) & (expected == 5)).sum() > 0.7 * ((mask == 5) | (expected == 5)).sum()
        tinted, frame = read(tmp_path / 'overlays' / f'{number}.png'), read(world / 'frames' / f'{number}.png')
        assert np.array_equal(tinted[mask == 0], frame[mask == 0])
        assert (tinted[mask == 5] != frame[mask == 5]).any(axis=1).mean() > 0.9
    assert np.array_equal(read(tmp_path / 'masks' / '0.png')[8:24, 8:24], np.full((16, 16), 5)), 'as given'


def test_bad_frames_and_masks_get_one_sentence(world, models, tmp_path):
    config, *rest = models['pervit']
    rest += ['--size', 16, '--out', tmp_path / 'out']
    mask = world / 'frames' / 'mask.png'

    def message(sequence, mask, *options):
        return refused('propagate.py', config, sequence, mask, *rest, *options)

    assert 'at most 64 labels, got 65 values' in message(world / 'frames', world / 'many.png')
    assert re.search(r"must have the size of the first frame '.*0.png', 48 x 32 pixels, got 40 x 32",
                     message(world / 'frames', world / 'small.png'))
    for name in ('broken.png', 'nothing.png'):
        assert re.search(f"mask '.*{name}' cannot be read as an image", message(world / 'frames', world / name))
    assert 'must have one whole number from 0 to 65535 in each pixel, got shape (32, 48, 3)' in message(
        world / 'frames', world / 'frames' / '0.png')
    assert 'blocks (--block) must be one or two, got [0, 1, 2]' in message(world / 'frames', mask, '--block', 0, 1, 2)
    assert 'there is no such file' in message(world / 'nothing', mask)
    for name, source in (('0.png', 'frames/0.png'), ('1.png', 'broken.png'), ('2.png', 'frames/2.png')):
        (tmp_path / name).write_bytes((world / source).read_bytes())
    line = message(tmp_path, mask)
    assert '1.png' in line and 'Others done: 2' in line
    assert sorted(path.name for path in (tmp_path / 'out' / 'masks').iterdir()) == ['0.png', '2.png']
    (tmp_path / '1.png').write_bytes((world / 'other.png').read_bytes())
    assert re.search("frames must have the size of the first, 48 x 32 pixels, got 40 x 32 in '.*1.png'",
                     message(tmp_path, mask))
    (tmp_path / '0.png').write_bytes(b'no image')
    assert "0.png' cannot be read" in message(tmp_path, mask)


def test_wide_masks_keep_their_numbers(tmp_path):
    from pervit_mm.apis.propagate import read_mask
    wide = np.array([[0, 300], [7, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / 'wide.png'), wide)
    assert np.array_equal(read_mask(tmp_path / 'wide.png'), wide)
