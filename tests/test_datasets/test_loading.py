"""Broken images: named, or passed over and counted."""
import numpy as np
import pytest
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS
from PIL import Image
from toy_run import toy_runner

from pervit_mm.datasets import PerViTLoadImageFromFile
from pervit_mm.utils.errors import UserError


@pytest.fixture
def images(tmp_path):
    """Eight images, two of which are broken in different ways."""
    for index in range(8):
        Image.fromarray(np.full((6, 6, 3), 30 * index, np.uint8)).save(tmp_path / f'{index}.png')
    (tmp_path / '2.png').write_bytes(b'')
    whole = (tmp_path / '5.png').read_bytes()
    (tmp_path / '5.png').write_bytes(whole[:20])
    return tmp_path


@DATASETS.register_module(force=True)
class Images(BaseDataset):
    """The images of a folder, as four numbers each."""

    def load_data_list(self):
        return [dict(img_path=f'{self.data_root}/{index}.png', y=float(index % 3)) for index in range(8)]


@TRANSFORMS.register_module(force=True)
class ToNumbers:
    """What the toy model takes."""

    def __call__(self, results):
        return dict(x=results['img'].reshape(-1)[:4].astype(np.float32), y=np.float32(results['y']))


@pytest.mark.parametrize('content', [b'', b'text', b'\x89PNG\r\n\x1a\n'])
def test_a_broken_image_is_named(tmp_path, content):
    (tmp_path / 'a.png').write_bytes(content)
    with pytest.raises(UserError, match=f"image '{tmp_path}/a.png' cannot be read .*: repair or remove it, or set "
                       'skip_broken=True'):
        PerViTLoadImageFromFile()(dict(img_path=str(tmp_path / 'a.png')))
    with pytest.raises(UserError, match='nowhere.png'):
        PerViTLoadImageFromFile()(dict(img_path='nowhere.png'))
    assert PerViTLoadImageFromFile(skip_broken=True)(dict(img_path=str(tmp_path / 'a.png'))) is None


def test_a_whole_image_is_mmcvs(tmp_path):
    from mmcv.transforms import LoadImageFromFile
    Image.fromarray(np.arange(108, dtype=np.uint8).reshape(6, 6, 3)).save(tmp_path / 'a.png')
    path = str(tmp_path / 'a.png')
    ours, theirs = (kind()(dict(img_path=path)) for kind in (PerViTLoadImageFromFile, LoadImageFromFile))
    np.testing.assert_array_equal(ours.pop('img'), theirs.pop('img'))
    assert ours == theirs


@pytest.mark.parametrize('workers, by_iteration', [(0, None), (2, None), (1, 6)])
def test_a_training_goes_on_and_reports(images, tmp_path, monkeypatch, workers, by_iteration):
    """A loop by iteration starts its workers ahead of all hooks. A file of an earlier training is not added to."""
    pipeline = [dict(type='PerViTLoadImageFromFile', skip_broken=True), dict(type='ToNumbers')]
    loader = dict(batch_size=4, num_workers=workers,
                  sampler=dict(type='InfiniteSampler' if by_iteration else 'DefaultSampler', shuffle=True),
                  collate_fn=dict(type='default_collate'),
                  dataset=dict(type='Images', data_root=str(images), pipeline=pipeline))
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'broken_images.txt').write_text('repaired.png\n')
    run = toy_runner(tmp_path / 'run', hooks=[dict(type='PerViTBrokenImagesHook')], train_dataloader=loader,
                     by_iteration=by_iteration)
    lines = []
    monkeypatch.setattr(run.logger, 'warning', lines.append)
    run.train()
    assert run.iter == 3 * 2
    said, = [line for line in lines if 'could not be read' in line]
    assert said.startswith('2 images could not be read, and others were taken in their place: ')
    expected = [f'{images}/2.png', f'{images}/5.png']
    assert (tmp_path / 'run' / 'broken_images.txt').read_text().splitlines() and all(path in said for path in expected)
