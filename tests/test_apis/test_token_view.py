"""Φp, Φc and Φa at one token, against MMPretrain's inferencer and the formula of attention; and the demo's mistakes."""
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from map_check import check_cells, framed, recorded
from page_check import Page
from small_classifiers import SIDE, write_model, write_world

from pervit_mm.apis.inference import ImagePredictor
from pervit_mm.apis.subject import open_subject
from pervit_mm.apis.token_page import serve, write_examples
from pervit_mm.apis.token_view import TokenView, draw_image, maps_at, maps_page, token_at, view_image
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')

DEMO = Path(__file__).parents[2] / 'demo' / 'web_demo.py'


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp('world'), ('pervit', 'bare', 'gray', 'vit', 'resnet'))


def of(world, kind):
    return open_subject(str(world / f'{kind}.py'), str(world / f'{kind}.pth'), 'cpu')


def test_scores_are_those_of_the_inferencer_for_any_photo(world, tmp_path):
    rng, photos = np.random.default_rng(0), {}
    for name, shape in dict(color=(40, 23, 3), alpha=(17, 33, 4), gray=(9, 50)).items():
        photos[name] = tmp_path / f'{name}.png'
        cv2.imwrite(str(photos[name]), rng.integers(0, 256, shape, dtype=np.uint8))
    subject = of(world, 'pervit')
    predictor = ImagePredictor(str(world / 'pervit.py'), str(world / 'pervit.pth'), 'cpu')
    for photo in photos.values():
        view = view_image(subject, photo)
        assert view.rgb.shape == (SIDE, SIDE, 3) and list(view.scores) == ['a', 'b', 'c']
        np.testing.assert_allclose([*view.scores.values()], predictor.predict(photo, tmp_path)['pred_scores'],
                                   rtol=1e-4)
    gray = view_image(of(world, 'gray'), photos['color'])
    assert gray.gray and not view.gray
    assert 'The network sees 16 × 16 gray pixels as 4 × 4 tokens.' in maps_page(gray, (0, 0))


def test_maps_belong_together_and_phi_p_to_no_image(world):
    subject = of(world, 'pervit')
    one, two = (view_image(subject, world / 'data' / name) for name in ('a/0.png', 'b/1.png'))
    assert one.hw_shape == (4, 4) and len(one.maps) == 3 and one.heads == 2
    for first, second in zip(one.maps, two.maps):
        both = first['content'] * first['position']  # Φa is the normalized product
        np.testing.assert_allclose(first['attention'], both / both.sum(axis=-1, keepdims=True), rtol=1e-4)
        np.testing.assert_array_equal(first['position'], second['position'])
        assert np.abs(first['content'] - second['content']).max() > 1e-3
    for head in (None, 1):
        maps = maps_at(one, (1, 3), head)
        assert list(maps) == ['position', 'content', 'attention']
        for name, expected in recorded(subject, world / 'data' / 'a/0.png', (1, 3), head).items():
            key = dict(Φp='position', Φc='content', Φa='attention')[name[:2]]
            np.testing.assert_allclose(maps[key][int(name[-1])], expected, rtol=1e-5)


def test_the_page_has_a_cell_for_each_map(world):
    subject, path = of(world, 'pervit'), world / 'data' / 'c/2.png'
    source = maps_page(view_image(subject, path), (2, 0), 1)
    page = Page(source)
    check_cells({image['alt']: image['src'] for image in page.of('img')}, recorded(subject, path, (2, 0), 1), (2, 0))
    assert 'Token in row 2, column 0, head 1.' in source and 'Φp does not depend on the image' in source
    assert not re.search('(?:src|href)="(?!data:)|<script', source)


@pytest.mark.parametrize('kind', ['bare', 'vit'])
def test_models_without_phi_p_show_their_attention(world, kind):
    source = maps_page(view_image(of(world, kind), world / 'data' / 'a/0.png'), (0, 0))
    images = [image['alt'] for image in Page(source).of('img')]
    assert images == [f'Φa of block {index}' for index in range(3)] and 'This model has no Φp.' in source


@pytest.mark.parametrize('size, grid', [((20, 30), (2, 3)), ((224, 224), (14, 14)), ((500, 300), (31, 18))])
def test_a_click_marks_the_token_that_it_hits(size, grid):
    view = TokenView(np.full((*size, 3), 200, np.uint8), False, {}, grid, [])
    for token in ((0, 0), (grid[0] - 1, 1), (1, grid[1] - 1)):
        picture = draw_image(view, token)
        top, left, bottom, right = framed(picture)
        assert token_at(view, (left + right) // 2, (top + bottom) // 2) == token
        # The frame is where the token is, to the width of its line.
        for edges, place, count, side in (((top, bottom), token[0], grid[0], picture.shape[0]),
                                          ((left, right), token[1], grid[1], picture.shape[1])):
            np.testing.assert_allclose(edges, [place * side / count, (place + 1) * side / count - 1], atol=2.5)
    assert token_at(view, picture.shape[1], -1) == (0, grid[1] - 1)


def test_examples_are_of_the_test_set_or_drawn(world, tmp_path):
    subject = of(world, 'pervit')
    files = write_examples(subject, tmp_path, 3)
    expected = subject.load(count=3).rgb()
    for file, image in zip(files, expected, strict=True):
        np.testing.assert_array_equal(cv2.imread(file)[..., ::-1], image)
    away = open_subject(*write_model(tmp_path, 'pervit', data=tmp_path / 'nowhere'), 'cpu')
    drawn, = write_examples(away, tmp_path)
    assert set(np.unique(cv2.imread(drawn))) == {0, 170, 190, 200}


def test_mistakes_are_named(world, tmp_path):
    image = world / 'data' / 'a/0.png'
    view = view_image(of(world, 'pervit'), image)
    with pytest.raises(UserError, match=r'query .* of the 4 x 4 grid, got \(4, 0\)'):
        draw_image(view, (4, 0))
    with pytest.raises(UserError, match='head must be None or a number from 0 to 1, got 2'):
        maps_page(view, (0, 0), 2)
    with pytest.raises(UserError, match='ResNet, which has no tokens that attend'):
        view_image(of(world, 'resnet'), image)
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(UserError, match="'.*text.png' cannot be read as one: leave it out, or give another file"):
        view_image(of(world, 'pervit'), tmp_path / 'text.png')


def test_the_command_names_what_is_wrong(world, monkeypatch):
    main = runpy.run_path(str(DEMO))['main']
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(SystemExit, match=r"web_demo.py: the page needs Gradio, .*pip install .* '.\[web\]'"):
        main([])
    monkeypatch.setitem(sys.modules, 'gradio', ModuleType('gradio'))  # none of it is used ahead of the mistakes
    with pytest.raises(SystemExit, match='web_demo.py: checkpoint is not of this config: head.fc.weight is'):
        main([str(world / 'pervit.py'), str(world / 'vit.pth')])
    with pytest.raises(UserError, match=r'port \(--port\) must be a number from 1 to 65535, got 0'):
        serve(None, 0)
