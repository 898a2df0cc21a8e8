"""A few labeled images: as many of each class, the same for the same seed."""
import pytest
from labeled_images import Labeled
from mmengine.registry import DATASETS, DefaultScope

from pervit_mm.selfsup import PerViTFewLabels
from pervit_mm.utils.errors import UserError


def drawn(**options):
    few = PerViTFewLabels(Labeled(), **options)
    assert [few[i]['img_path'] for i in range(len(few))] == [few.get_data_info(i)['img_path'] for i in range(len(few))]
    return [(few[i]['img_path'], few.get_cat_ids(i)[0]) for i in range(len(few))]


def test_every_class_has_as_many_images_and_the_seed_draws_them():
    images = drawn(shots=4, seed=1)
    assert sorted(label for _, label in images) == [0] * 4 + [1] * 4 + [2] * 4
    assert all(int(path) % 3 == label for path, label in images)
    assert images == drawn(shots=4, seed=1) != drawn(shots=4, seed=2)


def test_a_fraction_is_of_the_smallest_class():
    """Class 2 has 10 images."""
    assert len(drawn(fraction=0.5)) == 3 * 5
    assert len(drawn(fraction=0.01)) == 3, 'one image of each class at least'


def test_it_is_registered_for_configs():
    DATASETS.register_module(name='Labeled60', module=Labeled, force=True)
    with DefaultScope.overwrite_default_scope('mmengine'):
        few = DATASETS.build(dict(type='PerViTFewLabels', shots=2, dataset=dict(type='Labeled60')))
    assert len(few) == 6


@pytest.mark.parametrize('options, words', [
    ({}, 'shots or fraction, one of the two'), (dict(shots=1, fraction=0.1), 'shots or fraction'),
    (dict(fraction=0), 'above 0 and at most 1'), (dict(shots=11), 'shots must be from 1 to 10'),
])
def test_mistakes(options, words):
    with pytest.raises(UserError, match=words):
        PerViTFewLabels(Labeled(), **options)
