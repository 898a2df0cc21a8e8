"""SFC's fine-grained network: pairs by their definition, the loss at its limits, who sees what, and a run."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import randomize
from distillation_run import BACKBONE, calls_of, make_views
from mmpretrain.structures import DataSample
from torch import nn

from pervit_mm.selfsup import CorrespondenceHead, FineCorrespondence
from pervit_mm.selfsup.heads.correspondence_head import tokens_in_same_place
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')
MLP = dict(type='mmpretrain.NonLinearNeck', hid_channels=16, out_channels=8, with_bias=True, with_last_bias=True,
           with_last_bn=False, with_avg_pool=False, norm_cfg=dict(type='BN1d'))
OPTIONS = dict(backbone=BACKBONE, neck=dict(MLP, in_channels=24),
               head=dict(type='CorrespondenceHead', predictor=dict(MLP, in_channels=8)), momentum=0.9)


def head_of(**options):
    """A head that predicts what it is given."""
    head = CorrespondenceHead(dict(MLP, in_channels=8), **options)
    head.predictor = nn.Identity()
    return head


def pairs_by_definition(boxes, flipped, hw_shape, threshold):
    """Pairs of the tokens of two crops of one image, one at a time."""
    h, w = hw_shape
    crops = []
    for (x1, y1, x2, y2), turned in zip(boxes.tolist(), flipped.tolist()):
        width, height = (x2 - x1) / w, (y2 - y1) / h
        columns = [x1 + (col + 0.5) * width for col in range(w)]
        rows = [y1 + (row + 0.5) * height for row in range(h)]
        places = [(x, y) for y in rows for x in (columns[::-1] if turned else columns)]
        crops.append((places, math.hypot(width, height)))
    largest = max(crops[0][1], crops[1][1])
    return torch.tensor([[math.dist(a, b) < threshold * largest for b in crops[1][0]] for a in crops[0][0]])


@pytest.mark.parametrize('threshold', [0.5, 1.1])
def test_pairs_are_their_definition(threshold):
    corner = torch.rand(6, 2, 2) * 20
    boxes = torch.cat((corner, corner + 10 + 20 * torch.rand(6, 2, 2)), -1)
    flipped = torch.rand(6, 2) < 0.5
    found = tokens_in_same_place(boxes, flipped, (3, 4), threshold)
    assert found.any() and not found.all()
    for image in range(6):
        assert torch.equal(found[image], pairs_by_definition(boxes[image], flipped[image], (3, 4), threshold))


def test_identical_crops_give_minus_four_and_disjoint_ones_zero():
    tokens, still = torch.randn(3, 12, 8), torch.zeros(3, 2).bool()
    same = torch.tensor([2., 3., 30., 24.]).expand(3, 2, 4)
    loss, statistics = head_of().loss(torch.cat((tokens, tokens)), torch.cat((tokens, tokens)), same, still, (3, 4))
    assert loss.item() == pytest.approx(-4, abs=1e-5) and statistics['paired'] == 1
    apart = same + torch.tensor([[0.], [100.]])
    both = torch.randn(6, 12, 8, requires_grad=True)
    loss, statistics = head_of().loss(both, both.detach(), apart, still, (3, 4))
    assert loss.item() == 0 and statistics['paired'] == 0
    loss.backward()
    assert not both.grad.any()


def test_the_loss_is_the_mean_over_pairs_then_over_images():
    """Both ways, one cosine at a time. The second image has no pair, and counts as 0."""
    student, teacher = torch.randn(4, 6, 8), torch.randn(4, 6, 8)
    boxes = torch.tensor([[[0., 0., 12., 8.], [3., 2., 15., 10.]], [[0., 0., 5., 5.], [50., 50., 60., 60.]]])
    flipped = torch.tensor([[False, True], [False, False]])
    pairs = pairs_by_definition(boxes[0], flipped[0], (2, 3), 0.8).nonzero().tolist()
    ways = [torch.stack([F.cosine_similarity(student[0, a], teacher[2, b], dim=0) for a, b in pairs]).mean(),
            torch.stack([F.cosine_similarity(student[2, b], teacher[0, a], dim=0) for a, b in pairs]).mean()]
    loss, statistics = head_of(threshold=0.8).loss(student, teacher, boxes, flipped, (2, 3))
    assert loss.item() == pytest.approx(-2 * sum(ways).item() / 2, rel=1e-5)
    assert statistics['paired'].item() == pytest.approx(len({a for a, _ in pairs}) / 12)
    alike = torch.ones(4, 6, 8)
    assert head_of().loss(alike, alike, boxes, flipped, (2, 3))[1]['likeness'].item() == pytest.approx(1)


def model_of(**options):
    model = randomize(FineCorrespondence(**copy.deepcopy({**OPTIONS, **options})))
    model.set_progress(0.)
    return model


def samples_of(batch):
    """Two overlapping crops of each image."""
    samples = []
    for _ in range(batch):
        sample = DataSample()
        sample.set_field(torch.tensor([[0., 0., 28., 28.], [4., 4., 24., 24.]]).numpy(), 'boxes')
        sample.set_field(torch.tensor([False, True]).numpy(), 'flipped')
        samples.append(sample)
    return samples


def test_student_and_teacher_see_both_crops_and_only_the_student_learns():
    model, views = model_of().train(), make_views(3, (28, 28))
    student, teacher = calls_of(model.backbone), calls_of(model.teacher.module['backbone'])
    losses = model.loss(views, samples_of(3))
    assert torch.equal(student[0][0], torch.cat(views)) and torch.equal(teacher[0][0], torch.cat(views))
    losses['correspondence_loss'].backward()
    assert all(param.grad is None for param in model.teacher.parameters())
    assert all(param.grad is not None for module in (model.backbone, model.neck, model.head)
               for param in module.parameters())


def test_the_loss_comes_from_the_heads_of_student_and_teacher():
    """In eval mode, each view run by itself."""
    model, views = model_of().eval(), make_views(2, (28, 28))
    found = model.loss(views, samples_of(2))['correspondence_loss']
    teacher = model.teacher.module
    project = [[neck((backbone(view)[-1].flatten(0, 1), ))[0].view(2, 49, 8) for view in views]
               for backbone, neck in ((model.backbone, model.neck), (teacher['backbone'], teacher['neck']))]
    expected, _ = model.head.loss(torch.cat(project[0]), torch.cat(project[1]),
                                  torch.tensor([[[0., 0., 28., 28.], [4., 4., 24., 24.]]] * 2),
                                  torch.tensor([[False, True]] * 2), (7, 7))
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize('log, words', [(dict(paired=0., likeness=0.), 'no token has a pair'),
                                        (dict(paired=0.4, likeness=0.99), 'a mean cosine of 0.990'),
                                        (dict(paired=0.4, likeness=0.5), None)])
def test_collapse_is_named(log, words):
    found = model_of().collapsed(log)
    assert found is None if words is None else words in found


def test_mistakes():
    with pytest.raises(UserError, match='threshold must be a number above 0, got 0'):
        head_of(threshold=0)
    with pytest.raises(UserError, match='must take and give the width of the neck, 8, got in_channels=9 and out_ch'):
        model_of(head=dict(type='CorrespondenceHead', predictor=dict(MLP, in_channels=9)))
    with pytest.raises(UserError, match=r"must have boxes and flipped.*algorithm_keys=\('boxes', 'flipped'\)"):
        model_of().loss(make_views(2, (28, 28)), [DataSample(), DataSample()])
    with pytest.raises(UserError, match='at least 2 views of each image, got 1'):
        model_of().loss(make_views(2, (28, )), samples_of(2))
