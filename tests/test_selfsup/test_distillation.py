"""DINO, iBOT, AttMask and EsViT: what student and teacher see, and losses against formulas on features made here."""
import math

import pytest
import torch
from conftest import TINY_ARCH
from distillation_run import (
    ATTMASK,
    DINO,
    ESVIT,
    IBOT,
    MASKED,
    calls_of,
    distiller,
    make_views,
    options_of,
    slow_cross_entropy,
)

from pervit_mm.analysis import capture
from pervit_mm.selfsup import SelfDistillation
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')


def with_centers(model):
    """Give every center values that are not zero, and return copies by name."""
    centers = {name: buffer for name, buffer in model.named_buffers() if name.endswith('.center')}
    for center in centers.values():
        center.copy_(0.2 * torch.randn_like(center))
    return {name: center.clone() for name, center in centers.items()}


@torch.no_grad()
def seen_by_teacher(model, views):
    """Tokens ``(B, N, C)`` of each global view, each run by itself. The model is in eval mode."""
    return [model.teacher.module['backbone'](view)[-1] for view in views[:2]]


@torch.no_grad()
def view_loss_of(model, views, tokens, center):
    """DINO's loss, one image, pair and prototype at a time."""
    teacher = [model.teacher.module['neck'](each.mean(1)) for each in seen_by_teacher(model, views)]
    student = [model.neck(each.mean(1)) for each in tokens]
    terms = [slow_cross_entropy(student[v][i], teacher[q][i], center)
             for q in range(2) for v in range(len(views)) if v != q for i in range(len(views[0]))]
    return sum(terms) / len(terms), torch.cat(teacher)


def test_dino_is_its_formula_and_moves_its_center():
    """With a center, for global crops of 28 and local crops of 16 pixels."""
    model, views = distiller().eval(), make_views(3, (28, 28, 16, 16))
    center = with_centers(model)['head.center']
    with torch.no_grad():
        tokens = [model.backbone(view)[-1] for view in views]
    assert [each.shape[1] for each in tokens] == [49, 49, 16, 16]
    expected, teacher = view_loss_of(model, views, tokens, center)
    losses = model.loss(views)
    assert set(losses) == {'view_loss', 'entropy', 'spread', 'agreement'}
    assert losses['view_loss'].item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(model.head.center, 0.9 * center + 0.1 * teacher.mean(0))


def test_statistics_are_of_different_views():
    """Of the teacher's first view and the student's second: a student of the same view would agree too easily."""
    model, views = distiller().eval(), make_views(6, (28, 28))
    center = with_centers(model)['head.center']
    with torch.no_grad():
        targets = ((model.teacher.module['neck'](seen_by_teacher(model, views)[0].mean(1)) - center) / 0.04).softmax(-1)
        answers = model.neck(model.backbone(views[1])[-1].mean(1)).argmax(-1)
    found, mean = model.loss(views), targets.mean(0)
    assert found['agreement'].item() == pytest.approx((answers == targets.argmax(-1)).float().mean().item())
    assert found['entropy'].item() == pytest.approx(
        torch.distributions.Categorical(targets).entropy().mean().item() / math.log(8), rel=1e-4)
    assert found['spread'].item() == pytest.approx(
        torch.distributions.Categorical(mean).entropy().item() / math.log(8), rel=1e-4)


def test_views_of_one_size_go_through_the_student_together():
    model = distiller().train()
    student, teacher = calls_of(model.backbone), calls_of(model.teacher.module['backbone'])
    model.loss(make_views(3, (28, 28, 16, 16, 20)))
    assert [args[0].shape for args in student] == [(6, 1, 28, 28), (6, 1, 16, 16), (3, 1, 20, 20)]
    assert [args[0].shape for args in teacher] == [(6, 1, 28, 28)]


@pytest.mark.parametrize('number', [1, 3])
def test_the_teacher_sees_as_many_views_as_asked_for(number):
    model = distiller(num_teacher_views=number).eval()
    teacher, views = calls_of(model.teacher.module['backbone']), make_views(2, (28, 28, 28, 28))
    loss = model.loss(views)['view_loss'].item()
    assert torch.equal(teacher[0][0], torch.cat(views[:number])) and len(teacher) == 1
    with torch.no_grad():
        student = [model.neck(model.backbone(view)[-1].mean(1)) for view in views]
        known = [model.teacher.module['neck'](model.teacher.module['backbone'](view)[-1].mean(1)) for view in views]
    terms = [slow_cross_entropy(student[v][i], known[q][i], torch.zeros(8))
             for q in range(number) for v in range(4) if v != q for i in range(2)]
    assert loss == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_ibot_hides_tokens_of_global_views_from_the_student_alone():
    model = distiller(IBOT).train()
    student, teacher = calls_of(model.backbone), calls_of(model.teacher.module['backbone'])
    views = make_views(3, (28, 28, 16))
    model.loss(views)
    (images, mask), local = student
    assert mask.shape == (6, 7, 7) and mask.any() and torch.equal(images, torch.cat(views[:2]))
    assert len(local) == 1 and torch.equal(local[0], views[2])
    assert len(teacher) == 1 and len(teacher[0]) == 1 and torch.equal(teacher[0][0], images)


def test_local_crops_as_large_as_global_ones_stay_whole():
    model = distiller(IBOT).train()
    student = calls_of(model.backbone)
    model.loss(make_views(3, (28, 28, 28)))
    assert [len(args) for args in student] == [2, 1]


def test_ibot_is_its_formula_and_has_a_second_center():
    """The token loss by loops over what the recorded masks hide; the view loss from the masked views."""
    model, views = distiller(IBOT).eval(), make_views(2)
    model.masking = Masking(torch.rand(4, 7, 7) < torch.tensor([0.3, 0., 0.5, 0.1])[:, None, None])
    masks, centers = model.masking.mask, with_centers(model)
    with torch.no_grad():
        tokens = [*model.backbone(torch.cat(views[:2]), masks)[-1].chunk(2), model.backbone(views[2])[-1]]
        student = model.neck(torch.cat(tokens[:2]))
        teacher = model.teacher.module['neck'](torch.cat(seen_by_teacher(model, views)))
    per_image = []
    for i in range(4):
        terms = [slow_cross_entropy(student[i, j], teacher[i, j], centers['token_head.center'], 0.1, 0.07)
                 for j in masks[i].flatten().nonzero()[:, 0].tolist()]
        per_image.append(sum(terms) / max(1, len(terms)))
    expected, of_views = view_loss_of(model, views, tokens, centers['head.center'])
    losses = model.loss(views)
    assert losses['token_loss'].item() == pytest.approx(sum(per_image) / 4, rel=1e-5)
    assert losses['view_loss'].item() == pytest.approx(expected, rel=1e-5)
    for name, mean in (('token_head', teacher.mean((0, 1))), ('head', of_views.mean(0))):
        torch.testing.assert_close(
            getattr(model, name).center, 0.9 * centers[f'{name}.center'] + 0.1 * mean)


class Masking:
    """A mask that is known."""

    needs_attention = False

    def __init__(self, mask):
        self.mask = mask

    def __call__(self, *args):
        return self.mask


def test_empty_masks_give_no_token_loss_and_keep_the_mask_token_in_the_graph():
    """DDP waits for the gradient of every parameter."""
    model = distiller(IBOT, masking=dict(type='TokenBlockMask', prob=0)).train()
    losses = model.loss(make_views())
    assert losses['token_loss'].item() == 0 and losses['view_loss'].isfinite()
    (losses['token_loss'] + losses['view_loss']).backward()
    assert model.backbone.mask_token.grad is not None and not model.backbone.mask_token.grad.any()
    assert all(param.grad is not None for name, param in model.named_parameters() if not name.startswith('teacher.'))


@pytest.mark.parametrize('relative', [False, True])
def test_attmask_takes_the_attention_of_the_teachers_last_block(relative):
    """As the analysis captures it: the mean of its columns over queries and heads, maybe over that of Φp."""
    model, views = distiller(ATTMASK, relative_attention=relative).train(), make_views()
    backbone = model.teacher.module['backbone']
    with torch.no_grad(), capture(backbone) as record:
        expected = backbone(torch.cat(views[:2]))[-1]
    tokens, attention = model._look(views[:2])
    torch.testing.assert_close(tokens, expected)
    received = record.blocks[-1].attention.mean((1, 2))
    if relative:
        received = received / record.blocks[-1].maps()['position'].mean((0, 1))
    assert attention.shape == (6, 49)
    torch.testing.assert_close(attention, received)
    assert not backbone.blocks[-1].attn._forward_hooks, 'the hook stays on the teacher'


def test_that_attention_is_the_weight_of_each_value_in_the_pooled_output():
    """With one head, the mean over tokens of the attention's output is the sum of weighted values."""
    model = distiller(ATTMASK, backbone=dict(arch=dict(TINY_ARCH, num_heads=1))).eval()
    attn, views = model.teacher.module['backbone'].blocks[-1].attn, make_views()
    inputs, outputs = calls_of(attn), calls_of(attn.proj)
    _, weights = model._look(views[:2])
    values = attn.heads(inputs[0][0])[2][:, 0]
    torch.testing.assert_close(torch.einsum('bn,bnc->bc', weights, values), outputs[0][0].mean(1))
    torch.testing.assert_close(weights.sum(1), torch.ones(6))


def test_attmask_hides_what_the_teacher_attends_to():
    """14 of 49 tokens of each image."""
    model, views = distiller(ATTMASK).eval(), make_views()
    student = calls_of(model.backbone)
    _, attention = model._look(views[:2])
    model.loss(views)
    hidden = student[0][1].flatten(1)
    assert torch.equal(hidden, attention >= attention.topk(14).values[:, -1:])


def test_esvit_is_its_formula():
    """Each token of each view takes the answer for the most similar token; the weights are 1/4 and 3/4."""
    model, views = distiller(ESVIT).eval(), make_views(2)
    centers = with_centers(model)
    with torch.no_grad():
        tokens, keys = [model.backbone(view)[-1] for view in views], seen_by_teacher(model, views)
        student = [model.region_neck(each) for each in tokens]
        teacher = [model.teacher.module['region_neck'](each) for each in keys]
    pairs = []
    for q in range(2):
        for v in range(3):
            if v != q:
                cosines = torch.nn.functional.cosine_similarity(tokens[v][:, :, None], keys[q][:, None], dim=-1)
                terms = [slow_cross_entropy(student[v][i, j], teacher[q][i, cosines[i, j].argmax()],
                                            centers['region_head.center'])
                         for i in range(2) for j in range(tokens[v].shape[1])]
                pairs.append(sum(terms) / len(terms))
    expected, _ = view_loss_of(model, views, tokens, centers['head.center'])
    losses = model.loss(views)
    assert losses['region_loss'].item() == pytest.approx(0.25 * sum(pairs) / 4, rel=1e-5)
    assert losses['view_loss'].item() == pytest.approx(0.75 * expected, rel=1e-5)
    torch.testing.assert_close(
        model.region_head.center, 0.9 * centers['region_head.center'] + 0.1 * torch.cat(teacher).mean((0, 1)))


def test_without_a_region_head_the_view_loss_has_its_full_weight():
    views = make_views()
    assert (distiller(region_weight=0.9).eval().loss(views)['view_loss'].item() ==
            distiller().eval().loss(views)['view_loss'].item())


def test_views_that_do_not_fit_are_told():
    model = distiller()
    for views, message in (
            (make_views(sizes=(28, )), 'at least 2 views of each image, got 1: put MultiCropWithBoxes'),
            (make_views(sizes=(28, ))[0], 'at least 2 views of each image, got 1'),
            (make_views(sizes=(28, 16)), r'first 2 views .* one size, got \[\(28, 28\), \(16, 16\)\]: set global_size'),
            (make_views(sizes=(28, 28, 3)), 'at least one token, 4 px, got .*: set local_size')):
        with pytest.raises(UserError, match=message):
            model.loss(views)
    with pytest.raises(UserError, match='at least 3 views of each image, got 2'):
        distiller(num_teacher_views=3).loss(make_views(sizes=(28, 28)))


def test_a_run_without_the_hook_is_told():
    model = SelfDistillation(**options_of(DINO))
    for call in (lambda: model.loss(make_views()), model.update_teacher):
        with pytest.raises(UserError, match=r"needs dict\(type='DistillationHook'\) in custom_hooks, and the run has "):
            call()
    with pytest.raises(UserError, match='progress must be from 0 to 1, got 1.5'):
        model.set_progress(1.5)


def test_progress_reaches_every_head_and_the_momentum():
    warm = dict(out_channels=8, warmup_teacher_temp=0.1, teacher_temp=0.2, warmup=0.5)
    model = distiller(IBOT, head=dict(type='DistillationHead', **warm),
                      token_head=dict(type='TokenDistillationHead', **warm))
    model.set_progress(0.25)
    assert model.head.teacher_temp == model.token_head.teacher_temp == pytest.approx(0.15)
    for progress, momentum in ((0., 0.9), (1 / 3, 0.925), (0.5, 0.95), (1., 1.)):
        model.set_progress(progress)
        before, student = model.teacher.module['neck'].prototypes.clone(), model.neck.prototypes.detach()
        model.update_teacher()
        torch.testing.assert_close(
            model.teacher.module['neck'].prototypes, momentum * before + (1 - momentum) * student)


@pytest.mark.parametrize('entropy, spread, words', [
    (0.995, 1., 'answers have 0.995 of the largest entropy, so they say nothing'),
    (0.01, 0.01, 'mean answer has 0.010 of the largest entropy, so all images get the same answer'),
    (0.9, 0.9, None), (0.1, 0.9, None), (float('nan'), float('nan'), None)])
def test_collapse_is_named(entropy, spread, words):
    found = distiller().collapsed(dict(entropy=entropy, spread=spread, loss=2.))
    assert found is None if words is None else words in found


@pytest.mark.parametrize('options, message', [
    (dict(token_head=IBOT['token_head']), 'token_head and masking go together, got only token_head'),
    (dict(masking=IBOT['masking']), 'token_head and masking go together, got only masking'),
    (dict(token_head=IBOT['token_head'], masking=IBOT['masking']),
     'masking and a backbone of type MaskTokenPerViT go together, got masking=.* and PerViT'),
    (dict(backbone=MASKED), 'masking and a backbone of type MaskTokenPerViT go together, got masking=None'),
    (dict(relative_attention=True), r"relative_attention=True needs masking=dict\(type='AttentionMask'\)"),
    (dict(neck=dict(DINO['neck'], in_channels=23)), 'neck.in_channels of SelfDistillation must be .*, 24, got 23'),
    (dict(head=dict(DINO['head'], warmup_teacher_temp=0.02)), 'warmup_teacher_temp and warmup go together'),
    (dict(region_head=ESVIT['region_head']), 'region_head and region_neck go together, got only region_head'),
    (dict(region_neck=ESVIT['region_neck']), 'region_head and region_neck go together, got only region_neck'),
    (dict(head=dict(type='DistillationHead', out_channels=9)), 'out_channels of head .* of its neck, 8, got 9'),
    (dict(backbone=MASKED, masking=IBOT['masking'], token_head=dict(type='TokenDistillationHead', out_channels=9)),
     'out_channels of token_head .* of its neck, 8, got 9'),
    (dict(region_neck=ESVIT['region_neck'], region_head=dict(type='RegionMatchingHead', out_channels=8)),
     'out_channels of region_head .* of its neck, 10, got 8'),
    (dict(backbone=dict(out_type='avg_featmap')), r"out_type='raw' .*, got PerViT\(out_type='avg_featmap', "),
    (dict(backbone=dict(out_indices=(1, 2))), r'last block as its only output, got PerViT\(.*out_indices=\(1, 2\)\)'),
    (dict(backbone=dict(out_indices=(1, ))), r'last block as its only output, got .*\(1,\)'),
    (dict(momentum=1.1), 'momentum must be from 0 to 1, got 1.1'),
    (dict(region_weight=-1), 'region_weight must be from 0 to 1, got -1'),
    (dict(num_teacher_views=0), 'num_teacher_views must be a positive integer, got 0'),
])
def test_options_that_do_not_go_together_are_told(options, message):
    with pytest.raises(UserError, match=message):
        SelfDistillation(**options_of(DINO, **options))
