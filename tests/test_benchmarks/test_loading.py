"""The suite "loader": what it counts, and that its images weigh what those of ImageNet weigh."""
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from pervit_mm.benchmarks.loading import draw_photo, loader
from pervit_mm.benchmarks.settings import Settings

pytest.importorskip('mmpretrain')


def test_a_drawn_photo_weighs_what_an_image_of_imagenet_weighs():
    """The 1,281,167 files of ImageNet's training set are 138 GB, so one is 108 kB."""
    file = io.BytesIO()
    Image.fromarray(draw_photo(np.random.default_rng(0))).save(file, 'JPEG', quality=90)
    assert len(file.getvalue()) / 1000 == pytest.approx(138e6 / 1_281_167, rel=0.1)


def test_each_step_is_counted_once_for_each_image():
    """A clock that goes on by a second at each look: a step takes a second an image, collation a second a batch."""
    ticks = itertools.count()
    rows = loader(Settings(), None, images=2, clock=lambda: next(ticks))
    steps = {name: [row['step'] for row in rows if row['pipeline'] == name] for name in ('training', 'test')}
    assert steps == {
        'training': ['PerViTLoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'RandAugment', 'RandomErasing',
                     'PackInputs', 'collation', 'all'],
        'test': ['LoadImageFromFile', 'ResizeEdge', 'CenterCrop', 'PackInputs', 'collation', 'all']}
    for row in rows:
        count = len(steps[row['pipeline']]) - 2
        seconds = dict(collation=0.5, all=count + 0.5).get(row['step'], 1)
        assert float(row['ms']) == 1000 * seconds
        assert row['share'] == f'{100 * seconds / (count + 0.5):.0f} %'
        assert (row['images/s'] == '') == (row['step'] != 'all')
