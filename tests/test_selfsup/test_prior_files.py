"""Prior files: what is written is read, what is no prior is refused; targets by slow loops."""
import numpy as np
import pytest

from pervit_mm.selfsup import AttentionPrior, center_prior, foreground_prior, gaussian_prior, read_prior, ring_prior
from pervit_mm.selfsup.prior_files import write_prior
from pervit_mm.utils.errors import UserError


def test_an_offset_map_gives_each_query_its_keys():
    """On a grid that is not square, with weights that have no symmetry."""
    weights = np.random.default_rng(0).random((5, 7))
    target = AttentionPrior('relative', (3, 4), weights).target()
    for q in range(12):
        row = [weights[k // 4 - q // 4 + 2, k % 4 - q % 4 + 3] for k in range(12)]
        np.testing.assert_allclose(target[q], np.array(row) / sum(row), rtol=1e-6)


@pytest.mark.parametrize('prior', [gaussian_prior((3, 4), 1.), center_prior((4, 3), 2.), ring_prior((3, 3), 1, 1.5)])
def test_a_file_is_read_as_it_was_written(tmp_path, prior):
    write_prior(prior, tmp_path / 'prior.npz')
    found = read_prior(tmp_path / 'prior.npz')
    assert (found.kind, found.hw_shape, found.source) == (prior.kind, prior.hw_shape, prior.source)
    np.testing.assert_array_equal(found.weights, prior.weights)


def test_geometric_priors_look_where_they_say():
    ring = ring_prior((3, 3), 1, 1).target()
    assert ring[4].tolist() == [0, .25, 0, .25, 0, .25, 0, .25, 0]  # the four neighbors of the middle
    assert ring[0].tolist() == [0, .5, 0, .5, 0, 0, 0, 0, 0]
    near = gaussian_prior((1, 3), 2.).target()
    assert near[0, 1] / near[0, 0] == pytest.approx(np.exp(-1 / 8)) and near[0, 2] / near[0, 0] == pytest.approx(
        np.exp(-4 / 8))
    center = center_prior((1, 3), 1.).target()
    assert center[0] / center[1] == pytest.approx(np.exp(-1 / 2)) and center[0] == center[2]


def test_the_mean_foreground_is_the_share_of_object_pixels():
    masks = np.zeros((2, 4, 4), np.uint8)
    masks[0, :2, :2] = 7  # all of the first token
    masks[1, 3, 2:] = 1  # half of the last
    prior = foreground_prior(masks, (2, 2))
    assert prior.weights.tolist() == [[.5, 0], [0, .25]]
    assert prior.target().tolist() == pytest.approx([2 / 3, 0, 0, 1 / 3])


@pytest.mark.parametrize('change, words', [
    (dict(version=2), 'has version 2, and this package reads 1'), (dict(kind='near'), "one of .* got 'near'"),
    (dict(hw_shape=np.array([3, 3])), r'must be \(3, 3\), got \(2, 2\)'), (dict(extra=1), 'must be an .npz file with'),
    (dict(hw_shape=np.array([2., 2.])), 'hw_shape of prior .* must be two integers'),
    (dict(weights=-np.eye(2)), 'finite and at least 0'), (dict(weights=np.full((2, 2), np.nan)), 'finite'),
    (dict(weights=np.zeros((2, 2))), 'leave a query no key'), (dict(source=np.array([{}])), 'cannot be read'),
])
def test_files_that_hold_no_prior(tmp_path, change, words):
    entries = dict(version=1, kind='absolute', hw_shape=np.array([2, 2]), weights=np.eye(2), source='')
    np.savez(tmp_path / 'prior.npz', **{**entries, **change})
    with pytest.raises(UserError, match=words):
        read_prior(tmp_path / 'prior.npz')


def test_other_files_and_names(tmp_path):
    np.save(tmp_path / 'array.npz.npy', np.eye(2))
    (tmp_path / 'text.npz').write_text('no archive')
    for name, words in (('array.npz.npy', 'must be an .npz file'), ('text.npz', 'cannot be read'),
                        ('none.npz', 'cannot be read')):
        with pytest.raises(UserError, match=words):
            read_prior(tmp_path / name)
    with pytest.raises(UserError, match='must end with .npz'):
        write_prior(center_prior((2, 2), 1.), tmp_path / 'prior.npy')
    with pytest.raises(UserError, match='leave a query no key'):
        ring_prior((3, 3), 5, 6)
