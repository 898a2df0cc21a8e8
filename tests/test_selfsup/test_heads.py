"""Losses between student and teacher are what their formulas say, summed up one number at a time."""
import math

import pytest
import torch
from distillation_run import slow_cross_entropy
from mmengine.registry import MODELS
from mmpretrain.models.heads import MoCoV3Head
from torch import nn

from pervit_mm.selfsup import ContrastHead, DistillationHead, RegionMatchingHead, TokenDistillationHead
from pervit_mm.selfsup.heads.region_matching_head import match_tokens
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')
HEADS = [DistillationHead, TokenDistillationHead, RegionMatchingHead]
TEMPERATURES = dict(student_temp=0.3, teacher_temp=0.2)


def head_of(kind, num=6, **options):
    """A head with a center that is not zero."""
    head = kind(num, **dict(TEMPERATURES, **options))
    head.center.copy_(torch.linspace(-0.3, 0.4, num))
    return head


@pytest.mark.parametrize('num', [2, 7, 512])
def test_logits_of_zero_give_ln_k(num):
    """Of views, tokens and regions: the loss of a network that says nothing."""
    views, tokens, features = torch.zeros(3, num), torch.zeros(3, 5, num), torch.randn(3, 5, 4)
    losses = (DistillationHead(num).loss([views] * 3, [views] * 2),
              TokenDistillationHead(num).loss(tokens, tokens, torch.ones(3, 5).bool()),
              RegionMatchingHead(num).loss([tokens] * 3, [tokens] * 2, [features] * 3, [features] * 2))
    assert [loss.item() for loss in losses] == pytest.approx([math.log(num)] * 3, rel=1e-6)


def test_the_view_loss_is_the_mean_over_pairs_of_different_views():
    head = head_of(DistillationHead)
    student, teacher = torch.randn(4, 3, 6), torch.randn(2, 3, 6)
    terms = [slow_cross_entropy(student[v, i], teacher[q, i], head.center, 0.3, 0.2)
             for q in range(2) for v in range(4) if v != q for i in range(3)]
    assert len(terms) == (2 * 4 - 2) * 3
    found = head.loss(list(student), list(teacher))
    assert found.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_the_gradient_goes_from_the_teachers_distribution_to_the_students():
    """Of one pair it is (softmax(s / τs) - target) / τs, shared out over the images."""
    head, student, teacher = head_of(DistillationHead), torch.randn(2, 3, 6, requires_grad=True), torch.randn(1, 3, 6)
    head.loss(list(student), list(teacher)).backward()
    target = ((teacher[0] - head.center) / 0.2).softmax(-1)
    torch.testing.assert_close(student.grad[1], ((student[1] / 0.3).softmax(-1) - target).detach() / 0.3 / 3)
    assert not student.grad[0].any()


@pytest.mark.parametrize('kind', HEADS)
def test_the_center_moves_after_the_loss_alone(kind):
    """c ← m · c + (1 - m) · mean, over images and tokens."""
    head = head_of(kind, center_momentum=0.7)
    before, tokens = head.center.clone(), torch.randn(3, 5, 6)
    if kind is DistillationHead:
        head.loss(list(tokens), list(tokens))
    elif kind is TokenDistillationHead:
        head.loss(tokens, tokens, torch.ones(3, 5).bool())
    else:
        head.loss([tokens] * 2, [tokens] * 2, [tokens] * 2, [tokens] * 2)
    assert torch.equal(head.center, before)
    rows = [tokens[i, j] for i in range(3) for j in range(5)]
    head.update_center(tokens)
    torch.testing.assert_close(head.center, 0.7 * before + 0.3 * sum(rows) / 15)
    head.update_center(tokens[0])
    torch.testing.assert_close(
        head.center, 0.7 * (0.7 * before + 0.3 * sum(rows) / 15) + 0.3 * sum(rows[:5]) / 5)
    assert list(head.state_dict()) == ['center']


@pytest.mark.parametrize('kind', HEADS)
def test_the_teachers_temperature_warms_up(kind):
    head, logits = kind(3, teacher_temp=0.4, warmup_teacher_temp=0.1, warmup=0.5), torch.tensor([0.3, 0.1, 0.])
    for progress, expected in ((None, 0.1), (0., 0.1), (0.25, 0.25), (0.5, 0.4), (1., 0.4)):
        if progress is not None:
            head.set_progress(progress)
        assert head.teacher_temp == pytest.approx(expected)
        torch.testing.assert_close(head.targets(logits), (logits / expected).softmax(0))
    assert kind(3, teacher_temp=0.07).teacher_temp == 0.07


def test_statistics_tell_healthy_answers_from_collapsed_ones():
    """The entropies of one-hot and flat answers are known."""
    head, own = DistillationHead(4, teacher_temp=0.01), torch.eye(4)
    for logits, entropy, spread in ((own, 0, 1), (own[:1].expand(4, 4), 0, 0), (torch.zeros(4, 4), 1, 1)):
        found = head.statistics(own, logits)
        assert found['entropy'].item() == pytest.approx(entropy, abs=1e-6)
        assert found['spread'].item() == pytest.approx(spread, abs=1e-6)
    half = torch.cat([own[:2], own[:2]])
    assert head.statistics(own, half)['spread'].item() == pytest.approx(0.5)
    assert head.statistics(own, half)['agreement'].item() == 0.5
    head.center[0] = 2  # agreement is with the answer that the student should give, behind the center
    assert head.statistics(own[1:].repeat(2, 1), torch.ones(6, 4))['agreement'].item() == pytest.approx(1 / 3)


def token_example():
    """Three images: with three tokens hidden, with one, and with none."""
    mask = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]).bool()
    return head_of(TokenDistillationHead), torch.randn(3, 5, 6, requires_grad=True), torch.randn(3, 5, 6), mask


def test_the_token_loss_is_the_mean_over_images_of_means_over_hidden_tokens():
    head, student, teacher, mask = token_example()
    per_image = []
    for i in range(3):
        terms = [slow_cross_entropy(student[i, j], teacher[i, j], head.center, 0.3, 0.2)
                 for j in range(5) if mask[i, j]]
        per_image.append(sum(terms) / max(1, len(terms)))
    assert per_image[2] == 0
    assert head.loss(student, teacher, mask).item() == pytest.approx(sum(per_image) / 3, rel=1e-5)


def test_tokens_that_were_not_hidden_do_not_count():
    head, student, teacher, mask = token_example()
    expected = head.loss(student, teacher, mask)
    expected.backward()
    assert (student.grad[mask] != 0).all() and not student.grad[~mask].any()
    changed = torch.where(mask[..., None], student, 100 * torch.randn(3, 5, 6))
    assert head.loss(changed, teacher, mask).item() == expected.item()


def test_an_empty_mask_gives_a_loss_of_zero_with_a_gradient():
    head, student, teacher, mask = token_example()
    loss = head.loss(student, teacher, torch.zeros_like(mask))
    loss.backward()
    assert loss.item() == 0 and student.grad is not None and not student.grad.any()


def test_equal_tokens_match_themselves():
    tokens = torch.randn(3, 49, 5).double()
    assert torch.equal(match_tokens(tokens, tokens), torch.arange(49).expand(3, 49))
    # The cosine counts: a long token attracts no other.
    lengths = torch.rand(3, 49, 1).double() + 0.01
    assert torch.equal(match_tokens(tokens, lengths * tokens), torch.arange(49).expand(3, 49))


def region_example(numbers=(49, 49, 16), num=6, width=5):
    """Logits and features of the views of student and teacher in float64."""
    student = [torch.randn(2, n, num).double() for n in numbers]
    features = [torch.randn(2, n, width).double() for n in numbers]
    teacher = [torch.randn(2, n, num).double() for n in numbers[:2]]
    keys = [torch.randn(2, n, width).double() for n in numbers[:2]]
    return student, teacher, features, keys


def test_the_region_loss_takes_the_most_similar_token_of_the_teacher():
    """With 9 tokens of global and 4 of local views, over pairs, images and tokens."""
    head, (student, teacher, features, keys) = head_of(RegionMatchingHead), region_example((9, 9, 4))
    terms = []
    for q in range(2):
        for v in range(3):
            if v != q:
                pair = []
                for i in range(2):
                    for j, feature in enumerate(features[v][i]):
                        cosines = [float(feature @ key / feature.norm() / key.norm()) for key in keys[q][i]]
                        best = cosines.index(max(cosines))
                        pair.append(slow_cross_entropy(student[v][i, j], teacher[q][i, best], head.center, 0.3, 0.2))
                terms.append(sum(pair) / len(pair))  # each pair of views counts alike
    assert len(terms) == 4
    assert head.loss(student, teacher, features, keys).item() == pytest.approx(sum(terms) / 4, rel=1e-5)


def test_the_order_of_the_teachers_tokens_does_not_count():
    """Logits and features are permuted together; permuting one of them alone is another thing."""
    head, (student, teacher, features, keys) = head_of(RegionMatchingHead), region_example()
    expected = head.loss(student, teacher, features, keys)
    orders = [torch.randperm(49) for _ in range(2)]
    logits, tokens = ([each[:, order] for each, order in zip(views, orders)] for views in (teacher, keys))
    torch.testing.assert_close(head.loss(student, logits, features, tokens), expected)
    assert abs(head.loss(student, logits, features, keys) - expected) > 1e-3


def contrast_by_loops(student, teacher, temperature):
    """2 T times the mean cross-entropy of each image among all, and how many are found."""
    total, found = 0., 0
    for i, mine in enumerate(student):
        scores = [float(mine @ other / mine.norm() / other.norm()) / temperature for other in teacher]
        total += math.log(sum(map(math.exp, scores))) - scores[i]
        found += scores.index(max(scores)) == i
    return 2 * temperature * total / len(student), found / len(student)


def test_the_contrast_is_a_cross_entropy_over_the_images():
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    teacher[:2] = student[:2]
    loss, accuracy = ContrastHead(0.3).loss(student, teacher)
    expected, share = contrast_by_loops(student, teacher, 0.3)
    assert loss.item() == pytest.approx(expected, rel=1e-5) and accuracy.item() == pytest.approx(share)
    assert share >= 0.4


def test_the_contrast_is_that_of_mmpretrains_moco_v3():
    """Behind a predictor that changes nothing, and with MoCo v3's factor as the weight of its loss."""
    MODELS.register_module('UnchangedFeatures', module=nn.Identity, force=True)
    moco = MoCoV3Head(predictor=dict(type='UnchangedFeatures'), temperature=0.2,
                      loss=dict(type='CrossEntropyLoss', loss_weight=2 * 0.2))
    student, teacher = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    found, expected = ContrastHead(0.2).loss(student, teacher)[0], moco.loss(student, teacher)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in (found, expected)))


@pytest.mark.parametrize('kind', HEADS)
@pytest.mark.parametrize('options, message', [
    (dict(student_temp=0), 'student_temp must be a number above 0, got 0'),
    (dict(teacher_temp=-0.1), 'teacher_temp must be a number above 0, got -0.1'),
    (dict(warmup_teacher_temp=0), 'warmup_teacher_temp must be a number above 0, got 0'),
    (dict(warmup=1.5), 'warmup must be from 0 to 1, got 1.5'),
    (dict(center_momentum=2), 'center_momentum must be from 0 to 1, got 2'),
    (dict(out_channels=8.), 'out_channels of .* must be a positive integer, got 8.0'),
])
def test_mistakes(kind, options, message):
    with pytest.raises(UserError, match=message):
        kind(**{'out_channels': 8, **options})


def test_a_temperature_of_zero_is_told():
    with pytest.raises(UserError, match='temperature must be a number above 0, got 0'):
        ContrastHead(0)
