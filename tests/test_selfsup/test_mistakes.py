"""Mistakes of a pre-training are told ahead of its first iteration."""
import pytest
from distillation_run import distiller
from mmengine.dataset import BaseDataset, RepeatDataset

from pervit_mm.selfsup import PerViTFewLabels
from pervit_mm.utils.errors import UserError

mmpretrain = pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')


def images(**crops):
    """A wrapped data set whose pipeline makes the given crops."""
    return RepeatDataset(BaseDataset(lazy_init=True, pipeline=[dict(type='MultiCropWithBoxes', **crops)]), 2, True)


@pytest.mark.parametrize('crops, words', [
    (dict(global_size=28, num_global=1), 'must hold at least 2 views of each image, got 1'),
    (dict(global_size=28, local_size=3, num_local=2), r'must be at least one token, 4 px, got .*\(3, 3\)'),
])
def test_crops_that_do_not_serve_are_told_from_the_pipeline(crops, words):
    with pytest.raises(UserError, match=words):
        distiller().check_pipeline(images(**crops))


def test_crops_that_serve_and_other_pipelines_pass():
    distiller().check_pipeline(images(global_size=28, local_size=16, num_local=1))
    distiller().check_pipeline(BaseDataset(lazy_init=True))


def test_labels_of_a_set_that_has_none():
    class Unlabeled(BaseDataset):
        def load_data_list(self):
            return [dict(img_path=f'{i}.png') for i in range(4)]

        def get_gt_labels(self):
            return mmpretrain.datasets.BaseDataset.get_gt_labels(self)

    with pytest.raises(UserError, match='dataset of PerViTFewLabels must have one label for each image'):
        PerViTFewLabels(Unlabeled(), shots=1)
