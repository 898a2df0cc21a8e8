"""Correspondences of tokens against shifts that are known."""
import sys

import numpy as np
import pytest
import torch

from pervit_mm.analysis.correspondences import (
    best_buddies,
    distinct_colors,
    draw_pairs,
    pca_colors,
    select_pairs,
    token_centers,
)
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')


def test_a_shift_is_recovered():
    scene = torch.randn(10, 12, 8)
    x, y = scene[:8, :9], 3 * scene[2:, 3:]  # length doesn't matter
    pairs, similarity = best_buddies(x, y)
    rows, cols = pairs // 9, pairs % 9
    shared = similarity > 0.9999
    assert shared.sum() == 6 * 6, 'rows 2 to 7 and columns 3 to 8 of x are in y'
    assert (rows[shared, 0] - rows[shared, 1]).eq(2).all() and (cols[shared, 0] - cols[shared, 1]).eq(3).all()


def test_best_buddies_are_mutual_by_definition():
    x, y = torch.randn(30, 3, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    cosine = [[float(a @ b / (a.norm() * b.norm())) for b in y] for a in x]
    expected = []
    for i, row in enumerate(cosine):
        j = int(np.argmax(row))
        if int(np.argmax([cosine[k][j] for k in range(30)])) == i:
            expected.append([i, j])
    pairs, similarity = best_buddies(x, y)
    assert pairs.tolist() == expected and 0 < len(expected) < 20
    np.testing.assert_allclose(similarity, [cosine[i][j] for i, j in expected])
    assert sorted(best_buddies(y, x)[0].flip(1).tolist()) == expected


def test_selected_pairs_are_the_best_of_each_cluster():
    pytest.importorskip('sklearn')
    directions = torch.eye(4).repeat_interleave(5, dim=0)  # 20 tokens of 4 kinds
    x = directions + 0.01 * torch.randn(20, 4)
    pairs = torch.stack((torch.arange(20), torch.arange(20)), dim=1)
    ranks = torch.rand(20)
    best = [kind * 5 + int(ranks[kind * 5:kind * 5 + 5].argmax()) for kind in range(4)]
    best.sort(key=lambda token: -ranks[token])
    assert select_pairs(x, x, pairs, ranks, 4)[:, 0].tolist() == best
    # No more pairs than different ones. All pairs of one kind are equal here.
    assert len(select_pairs(directions, directions, pairs, ranks, 10)) == 4
    assert select_pairs(x, x, pairs[:3], ranks[:3], 10)[:, 0].tolist() == ranks[:3].argsort(descending=True).tolist()


def test_colors_are_shared_principal_components():
    pytest.importorskip('sklearn')
    # Along each axis the other two are constant, so the axes are the components, the widest first.
    axes = torch.eye(3) * torch.tensor([1., 3., 2.])
    points = torch.cat([torch.outer(torch.tensor([-1., -.5, .5, 1.]), axis) for axis in axes])
    first, second = pca_colors([points[:6].view(2, 3, 3), points[6:].view(3, 2, 3)])
    assert first.shape == (2, 3, 3) and second.shape == (3, 2, 3) and first.dtype == np.uint8
    found = np.concatenate((first.reshape(-1, 3), second.reshape(-1, 3))).astype(float)
    ramp = np.array([0, 63.75, 191.25, 255])
    for component, axis in enumerate((1, 2, 0)):
        expected = np.full(12, 127.5)
        expected[4 * axis:4 * axis + 4] = ramp
        error = min(abs(found[:, component] - expected).max(), abs(255 - found[:, component] - expected).max())
        assert error <= 0.5, 'up to the sign'
    # One component varies, so the others are drawn as constant, and fewer than three channels do.
    line, = pca_colors([torch.linspace(0, 1, 5).view(1, 5, 1) * torch.tensor([1., 1e-7])])
    assert line[..., 1:].max() == 0 and set(line[0, [0, -1], 0]) == {0, 255}


def test_pairs_are_drawn_at_their_tokens():
    centers = token_centers(torch.tensor([0, 5]), (2, 4), (64, 128))
    assert centers.tolist() == [[16, 16], [48, 48]]
    black = np.zeros((64, 128, 3), np.uint8)
    picture = draw_pairs(black, black, centers, centers[::-1])
    assert picture.shape == (64, 128 + 4 + 128, 3)
    for (x, y), (x2, y2), color in zip(centers.astype(int), centers[::-1].astype(int), distinct_colors(2)):
        assert picture[y, x].tolist() == color.tolist() == picture[y2, x2 + 132].tolist()
    assert len(np.unique(distinct_colors(64), axis=0)) == 64 and distinct_colors(0).shape == (0, 3)


def test_mistakes_get_one_sentence(monkeypatch):
    x = torch.randn(4, 4, 3)
    pairs, ranks = best_buddies(x, x)
    with pytest.raises(UserError, match='x and y must have descriptors of one length, got 3 and 2'):
        best_buddies(x, x[..., :2])
    with pytest.raises(UserError, match='count must be a number of pairs of at least 1, got 0'):
        select_pairs(x, x, pairs, ranks, 0)
    with pytest.raises(UserError, match='no two tokens are best buddies'):
        select_pairs(x, x, pairs[:0], ranks[:0], 3)
    with pytest.raises(UserError, match='maps must be .* of one C'):
        pca_colors([x, x[..., :2]])
    for name in ('sklearn.cluster', 'sklearn.decomposition'):
        monkeypatch.setitem(sys.modules, name, None)
    for call in (lambda: pca_colors([x]), lambda: select_pairs(x, x, pairs, ranks, 3)):
        with pytest.raises(UserError, match='needs scikit-learn: pip install scikit-learn'):
            call()
