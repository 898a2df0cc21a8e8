"""The report: a page that needs nothing, the same numbers as JSON, and one line for what a model has none of."""
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from page_check import Page
from small_classifiers import write_model, write_world

from pervit_mm.analysis import Plan, attention_distance, capture, cka_matrix, position_nonlocality
from pervit_mm.apis.report import View, make_case, make_report, report_on, run, split_model
from pervit_mm.apis.report.cases import initial_nonlocality
from pervit_mm.apis.report.sections import SECTIONS, cka_section, impact_section, maps_section, position_section
from pervit_mm.apis.subject import open_subject
from pervit_mm.evaluation.single_tokens import single_token_accuracy
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')

CONFIGS = Path(__file__).parents[2] / 'configs'
NANO = 'pervit_nano_fashion-mnist'
REPORTS = dict(pervit=['pervit'], vit=['vit'], resnet=['resnet'], two=['pervit', 'vit'])


class Written:
    """A report that was written."""

    def __init__(self, page, unreadable):
        self.file, self.unreadable = page, unreadable
        self.source = page.read_text(encoding='utf-8')
        self.page = Page(self.source)
        self.data = json.loads(page.with_name('report.json').read_text(encoding='utf-8'), parse_constant=pytest.fail)

    def figure(self, key, name):
        return self.data['figures'][key]['data'][name]


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    folder = write_world(tmp_path_factory.mktemp('world'), ('pervit', 'bare', 'windows', 'vit', 'resnet'))
    write_model(folder, 'pervit', 'twin', data=folder / 'data')
    return folder


def named(world, *names):
    return [(str(world / f'{name}.py'), str(world / f'{name}.pth')) for name in names]


@pytest.fixture(scope='module')
def report(world):
    """A report by its name in REPORTS, made once."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = Written(*report_on(named(world, *REPORTS[name]), world / f'out_{name}', count=6, shown=2,
                                            device='cpu'))
        return made[name]

    return of


@pytest.mark.parametrize('name', REPORTS)
def test_the_page_needs_nothing_else(report, name):
    written, page = report(name), report(name).page
    page.check_names()
    outside_pictures = re.sub(r'data:image/png;base64,[\w+/=\s]+', '', written.source)
    assert not re.search(r'<script|https?:|//[a-z]|javascript:|@import|<link|<iframe', outside_pictures, re.I)
    assert not any(key.startswith('on') for _, attrs, _ in page.elements for key in attrs)
    assert len(written.source) < 5e6
    assert all(attrs['alt'].strip() and attrs['src'].startswith('data:image/png;base64,') for attrs in page.of('img'))
    assert page.of('svg') and all(attrs['aria-label'].strip() and attrs['role'] == 'img' for attrs in page.of('svg'))
    labels = [attrs['aria-label'] for attrs in page.of('svg')]
    assert len(labels) == len(set(labels)), 'names in SVGs come from their labels'
    assert page.of('html') == [dict(lang='en')] and len(page.of('h1')) == len(page.of('title')) == 1
    style = written.source.split('<style>')[1].split('</style>')[0]
    assert 'prefers-color-scheme: dark' in style and '@media print' in style and '&' not in style
    assert not re.search(r'\b(nan|None|NaN)\b', page.text)


@pytest.mark.parametrize('name', REPORTS)
def test_each_figure_says_what_it_is(report, name):
    written = report(name)
    sections = [attrs['id'] for attrs in written.page.of('section')]
    assert sections == list(written.data['figures']) and len(sections) >= 3
    links = [attrs['href'][1:] for attrs in written.page.of('a')]
    assert links == sections
    for figure in written.data['figures'].values():
        assert figure['data']
        for part in ('title', 'rule', 'unit', 'source', 'reference', 'caution'):
            assert len(figure[part]) > 4 and figure[part] in written.page.text


def plain(world, name):
    """The model and its normalized test images."""
    subject = open_subject(*named(world, name)[0], 'cpu')
    batch = subject.load()
    return subject, batch, subject.normalize(batch.pixels)


def test_numbers_are_those_of_a_plain_recording(report, world):
    written = report('pervit')
    subject, batch, inputs = plain(world, 'pervit')
    with torch.no_grad(), capture(subject.model, features=True) as record:
        subject.backbone(inputs)
    distance = written.figure('distance', 'pervit')
    for i, block in enumerate(record):
        expected = attention_distance(block.attention, (4, 4)).mean(0)
        np.testing.assert_allclose(distance['attention'][i], expected, rtol=1e-4)
        np.testing.assert_allclose(distance['position'][i], attention_distance(
            block.log_position.exp(), (4, 4)), rtol=1e-4)
    # By hand: mean distance of all pairs of a grid of 4 x 4.
    places = np.stack(np.divmod(np.arange(16), 4), 1)
    uniform = np.linalg.norm(places[:, None] - places[None], axis=2).mean()
    np.testing.assert_allclose(distance['uniform'], uniform, rtol=1e-5)
    np.testing.assert_allclose(written.figure('entropy', 'pervit')['uniform'], np.log(16), rtol=1e-5)
    np.testing.assert_allclose(written.figure('cka', 'pervit'), cka_matrix([b.output for b in record]), atol=1e-4)
    for found, expected in zip(written.figure('position', 'pervit')['nonlocality'],
                               position_nonlocality(subject.backbone), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    tokens, found = single_token_accuracy(subject.model, [(inputs, batch.labels)]), written.figure('single', 'pervit')
    correct = (subject.logits(inputs).argmax(1) == batch.labels).double().mean().item()
    assert found['all_tokens'] == pytest.approx(100 * correct)
    np.testing.assert_allclose(found['by_place'], tokens.by_place, rtol=1e-4)
    model, = written.data['models']
    assert model == dict(name='pervit', backbone='PerViT', grids=[[4, 4]] * 3, heads=[2] * 3, images=batch.names,
                         skipped={})
    assert 'What does not apply' not in written.page.text


def test_the_reference_of_position_is_a_newly_initialized_model(report, world):
    cfg = Config.fromfile(world / 'pervit.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        fresh = MODELS.build(cfg.model.backbone)
    fresh.init_weights()
    found = report('pervit').figure('position', 'pervit')['initialization']
    for values, expected in zip(found, position_nonlocality(fresh), strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-4)


@pytest.mark.parametrize('rule', [
    "dict(type='PeripheralInit', size=(-2, 3), strength=(2, 0.1))",
    "dict(type='pervit_mm.PeripheralInit', size=(-2, 3), strength=(2, 0.1))",
    "[dict(type='Pretrained', checkpoint='nothing.pth'), dict(type='PeripheralInit', size=(-2, 3), "
    'strength=(2, 0.1))]'])
def test_the_reference_follows_the_initialization_of_the_config(world, rule):
    config, weights = named(world, 'pervit')[0]
    changed = world / 'changed.py'
    changed.write_text(f"_base_ = 'pervit.py'\nmodel = dict(backbone=dict(init_cfg={rule}))\n")
    found = initial_nonlocality(open_subject(str(changed), weights, 'cpu'))
    usual = initial_nonlocality(open_subject(config, weights, 'cpu'))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        fresh = MODELS.build(dict(Config.fromfile(config).model.backbone, init_cfg=dict(
            type='PeripheralInit', size=(-2, 3), strength=(2, 0.1))))
    fresh.init_weights()
    for values, expected in zip(found, position_nonlocality(fresh), strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert not np.allclose(found, usual), 'the options matter'


def test_rings_are_counted_and_have_their_uniform_shares(report):
    found = report('pervit').figure('rings', 'pervit')
    assert sum(found['heads_by_ring']) + found['flat_heads'] == 6  # 3 blocks of 2 heads
    np.testing.assert_allclose(np.sum(found['attention'], axis=-1), 1, rtol=1e-4)
    np.testing.assert_allclose(np.sum(found['uniform'], axis=-1), 1, rtol=1e-4)
    np.testing.assert_allclose(found['edges'], [[1.5 * 4 / 14, 3.5 * 4 / 14, 6.5 * 4 / 14]] * 3, rtol=1e-4)


REASONS = {
    'vit': (['VisionTransformer has no position attention that can be read from its weights.',
             "The logits of single tokens don't add up to those of model with VisionTransformer: the head reads the "
             'class token and no other; use a model with mean pooling right ahead of its linear head, or grad-cam.'],
            {'position', 'impact', 'single'}),
    'resnet': (['ResNet is a convolutional network and has no attention.',
                'The branches of ResNet are not recorded, so they are not compared with its skip connections.',
                'Some blocks have one token, which has no pair to be compared with.'],
               {'position', 'distance', 'entropy', 'rings', 'offsets', 'impact', 'maps', 'rollout'}),
}


@pytest.mark.parametrize('name', REASONS)
def test_what_does_not_apply_is_one_line_with_the_reason(report, name):
    lines, missing = REASONS[name]
    written, everything = report(name), set(report('pervit').data['figures'])
    assert list(dict.fromkeys(written.data['models'][0]['skipped'].values())) == lines
    assert all(written.page.text.count(line) == 1 for line in lines)
    assert set(written.data['figures']) == everything - missing


def test_a_pervit_without_position_and_one_in_windows_say_so(world):
    bare, windows = cases_of(world, 'bare', 'windows')
    assert bare.skipped == dict(position='This PerViT has no Φp (position_cfg=None).')
    assert position_section([bare], View()) is None and impact_section([bare], View()) is None
    assert windows.skipped.keys() == {'windows'} and 'those of the windows' in windows.skipped['windows']
    assert position_section([bare, windows], View()).data.keys() == {'windows'}


def test_a_convolutional_network_still_has_its_measures(report):
    written = report('resnet')
    uniformity = written.figure('tokens', 'resnet')['uniformity']
    assert uniformity[-1] is None and all(-1 <= value <= 1.001 for value in uniformity[:4])
    assert np.diag(written.figure('cka', 'resnet')) == pytest.approx(np.ones(8), abs=1e-4)
    areas = written.figure('field', 'resnet')
    assert list(areas) == ['0.2', '0.3', '0.5', '0.99'] and sorted(areas.values()) == list(areas.values())
    assert 0 < areas['0.2'] and areas['0.99'] <= 1


def test_two_models_lie_side_by_side(report):
    written = report('two')
    assert [model['name'] for model in written.data['models']] == ['pervit', 'vit']
    assert set(written.figure('distance', 'pervit')) == {'attention', 'content', 'position', 'uniform'}
    assert set(written.figure('distance', 'vit')) == {'attention', 'uniform'}
    assert written.data['figures']['position']['data'].keys() == {'pervit'}
    assert 'vit: VisionTransformer has no position attention' in written.page.text
    cross = np.array(written.figure('cka', 'the first (up) against the second'))
    assert cross.shape == (3, 3) and np.abs(cross).max() <= 1 + 1e-4
    for name, alone in (('pervit', report('pervit')), ('vit', report('vit'))):
        assert written.figure('distance', name) == alone.figure('distance', name)


def cases_of(world, *names):
    found = []
    for name in names:
        subject, batch, _ = plain(world, name)
        found.append(make_case(subject, batch, Plan(subject.model, subject.normalize(batch.pixels)), shown=1))
    return found


def test_a_model_is_as_similar_to_its_twin_as_to_itself(world):
    section = cka_section(cases_of(world, 'pervit', 'twin'), View())
    cross = np.array(section.data['the first (up) against the second'])
    np.testing.assert_allclose(np.diag(cross), 1, atol=1e-5)
    np.testing.assert_allclose(cross, section.data['pervit'], atol=1e-5)
    np.testing.assert_allclose(cross, cross.T, atol=1e-5)


def test_blocks_are_compared_on_the_same_images_alone(world):
    first, second = cases_of(world, 'bare', 'bare')
    first.name, second.name = 'one', 'other'
    assert cka_section([first, second], View()).data.keys() == {'one', 'other', 'the first (up) against the second'}
    labels, second.labels = second.labels, [2 - label for label in second.labels]
    assert cka_section([first, second], View()).data.keys() == {'one', 'other'}, 'another set of equal names'
    second.labels = labels
    second.names = [f'{name} of another set' for name in second.names]
    section = cka_section([first, second], View())
    assert section.data.keys() == {'one', 'other'}
    assert 'saw different images, so their blocks are not compared with each other.' in section.rule


def test_checkpoints_of_one_config_have_different_names(world, tmp_path, monkeypatch):
    (config, weights), (_, twin) = named(world, 'bare', 'bare')
    other = tmp_path / 'bare.pth'
    other.write_bytes(Path(twin).read_bytes())
    monkeypatch.setattr(run, 'make_report', lambda cases, *args: cases)
    cases, _ = report_on([(config, weights), (config, str(other))], tmp_path, shown=1, device='cpu')
    assert [case.name for case in cases] == [
        f'bare ({folder.name}/bare)' for folder in (world, tmp_path)]


def test_few_images_and_files_without_labels(world, tmp_path):
    (world / 'data' / 'broken.png').write_bytes(b'no image')
    files = [str(world / 'data' / 'a'), str(world / 'data' / 'b' / '1.png'), str(world / 'data' / 'broken.png')]
    written = Written(*report_on(named(world, 'pervit'), tmp_path, files, device='cpu'))
    assert written.data['models'][0]['images'] == ['0.png', '3.png', '1.png']
    sentence, = written.unreadable
    assert 'broken.png' in sentence
    assert written.data['models'][0]['skipped'] == {
        'cka': 'CKA needs at least 4 images, and there are 3.',
        'localization': 'CKA needs at least 4 images, and there are 3.',
        'token accuracy': 'The images have no labels, so there is no accuracy.'}
    assert written.page.text.count('CKA needs at least 4 images') == 1
    assert {'cka', 'localization'} & set(written.data['figures']) == set()
    assert 'by_place' not in written.data['figures']['single']['data'].get('pervit', {})


@pytest.mark.parametrize('scope, name', [('mmdet', 'detection/mask-rcnn_pervit-nano_fashion-scenes'),
                                         ('mmseg', 'segmentation/pervit-nano_fpn_fashion-scenes')])
def test_a_detector_or_segmentor_has_all_but_single_tokens(tmp_path, world, scope, name):
    pytest.importorskip(scope)
    config = str(CONFIGS / f'{name}.py')
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(Config.fromfile(config).model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'weights.pth')
    subject = open_subject(config, str(tmp_path / 'weights.pth'), 'cpu')
    batch = subject.load(sorted((world / 'data' / 'a').iterdir()))
    plan = Plan(subject.model, subject.normalize(batch.pixels))
    case = make_case(subject, batch, plan, shown=1, blocks=[0])
    assert case.skipped['single tokens'] == 'The model is no classifier, so single tokens have no class.'
    assert case.cam is None and case.single_tokens is None
    assert case.study.grids == [(5, 5)] * 6 and len(case.nonlocality) == 6


def test_names_are_text_and_values_without_a_number_null(world, tmp_path):
    case, = cases_of(world, 'bare')
    case.name = '<b>"x" & y</b>'
    case.predicted = ['<i>' for _ in case.predicted]
    case.study.norms[0] = (float('inf'), 2.)  # a branch of zeros
    case.study.uniformity[1] = float('nan')
    written = Written(make_report([case], tmp_path), [])
    assert not written.page.of('b') and case.name in written.page.text
    assert any(case.name in attrs['alt'] for attrs in written.page.of('img'))
    found = written.figure('tokens', case.name)
    assert found['norms'][0] == [None, 2.] and found['uniformity'][1] is None


def test_the_view_changes_the_pictures(world):
    case, = cases_of(world, 'pervit')

    def pictures(view):
        section = maps_section([case], view)
        assert ('Colors go from 0 to 1 in every map.' in section.rule) == (view.scale == 'unit')
        return [picture for picture, _ in section.pieces]

    usual = pictures(View())
    assert len(usual) == len(case.study.maps)
    for first, second in zip(pictures(View([(2, 2)])), usual, strict=True):
        np.testing.assert_array_equal(first, second)
    for view in (View([(0, 0)]), View(scale='unit')):
        assert all((a != b).any() for a, b in zip(pictures(view), usual, strict=True))
    with pytest.raises(UserError, match=r'query \(--query\) must be a token .* of the 4 x 4 grid, got \(4, 0\)'):
        pictures(View([(4, 0)]))


def test_the_same_images_give_the_same_report(world, tmp_path, report):
    again = Written(*report_on(named(world, 'resnet'), tmp_path, count=6, shown=2, device='cpu'))
    assert again.source == report('resnet').source and again.data == report('resnet').data


def test_words_tell_model_checkpoint_and_images_apart():
    assert split_model([NANO]) == (NANO, None, [])
    assert split_model([NANO, 'a.png', 'b.png']) == (NANO, None, ['a.png', 'b.png'])
    assert split_model(['c.py', 'w.pth']) == ('c.py', 'w.pth', [])
    assert split_model(['c.py', 'w.pth', 'a.png']) == ('c.py', 'w.pth', ['a.png'])
    # A name without published weights.
    name = 'pervit-tiny_3rdparty_in1k'
    assert split_model([name, 'w.pth', 'a.png']) == (name, 'w.pth', ['a.png'])
    with pytest.raises(UserError, match=f"model='{name}' has no published weights, so a checkpoint must follow it"):
        split_model([name])
    with pytest.raises(UserError, match=rf"model='c.py' is no name of the zoo \(.*{NANO}.*\), so a checkpoint must"):
        split_model(['c.py'])


def test_mistakes_are_named(world, tmp_path):
    models = named(world, 'pervit')
    for options, message in (
            (dict(blocks=[3]), r'blocks \(--blocks\) must be numbers from 0 to 2, got 3'),
            (dict(edges=[3, 2]), r'edges must be distances in tokens that rise .* got \(3, 2\)'),
            (dict(shown=0), r'shown \(--shown\)'), (dict(count=0), 'count'),
            (dict(images=['nothing/*.png']), "images='nothing/.*': there is no such file")):
        with pytest.raises(UserError, match=message):
            report_on(models, tmp_path / 'out', device='cpu', **options)
    (tmp_path / 'file').write_text('')
    case, = cases_of(world, 'bare')
    with pytest.raises(UserError, match=r"out_dir='.*file' \(--out\) cannot be made"):
        make_report([case], tmp_path / 'file')


def test_every_section_has_been_seen(report):
    seen = {key for name in REPORTS for key in report(name).data['figures']}
    assert len(seen) == len(SECTIONS)
