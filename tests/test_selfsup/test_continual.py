"""Learning task after task: what the old network is asked, what the losses are, and that it never changes."""
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_ARCH, randomize
from mmengine.registry import MODELS, DefaultScope

from pervit_mm.selfsup import (
    MapDistillation,
    PositionDistillation,
    attention_distillation,
    average_accuracy,
    forgetting,
)
from pervit_mm.selfsup.attention_distillation import map_distance
from pervit_mm.selfsup.block_maps import record_blocks
from pervit_mm.selfsup.continual import FrozenModel
from pervit_mm.utils.errors import UserError

mmpretrain = pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')
TASKS = [[3, 0], [1, 4], [2]]
LWF = dict(lwf_weight=2., temperature=3.)
MAPS, POSITION = dict(type='MapDistillation'), dict(type='PositionDistillation')


def classifier(task=0, old=None, **options):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(
            type='DistilledClassifier', tasks=TASKS, task=task, old=old,
            backbone=dict(dict(type='PerViT', arch=TINY_ARCH, img_size=28, in_channels=1),
                          **options.pop('backbone', {})),
            head=dict(type='LinearClsHead', num_classes=5, in_channels=24, topk=(1, )), **options))
    return randomize(model)


@pytest.fixture(scope='module')
def old(tmp_path_factory):
    """A checkpoint of the first task, and its model."""
    torch.manual_seed(5)
    model = classifier()
    for param in model.parameters():
        param.data += 0.1 * torch.randn_like(param)
    path = str(tmp_path_factory.mktemp('old') / 'old.pth')
    torch.save(dict(state_dict=model.state_dict()), path)
    return path, model.eval()


def batch(labels=(1, 4, 4)):
    from mmpretrain.structures import DataSample
    return torch.randn(len(labels), 1, 28, 28), [DataSample().set_gt_label(label) for label in labels]


def test_the_cross_entropy_is_over_the_classes_of_the_task_alone():
    model = classifier(1).eval()
    inputs, samples = batch()
    losses = model.loss(inputs, samples)
    expected = F.cross_entropy(model(inputs)[:, [1, 4]], torch.tensor([0, 1, 1]))
    assert list(losses) == ['loss'] and losses['loss'].item() == pytest.approx(expected.item(), rel=1e-5)
    losses['loss'].backward()
    assert not model.head.fc.weight.grad[[0, 2, 3]].any() and model.head.fc.weight.grad[[1, 4]].all()


def test_lwf_is_the_divergence_from_the_old_answers_over_the_old_classes(old):
    path, teacher = old
    model, (inputs, samples) = classifier(1, path, **LWF).eval(), batch()
    target = (teacher(inputs)[:, [3, 0]] / 3).softmax(1)
    answer = (model(inputs)[:, [3, 0]] / 3).softmax(1)
    expected = 2 * (target * (target / answer).log()).sum(1).mean()
    assert model.loss(inputs, samples)['lwf_loss'].item() == pytest.approx(expected.item(), rel=1e-4)
    model.load_state_dict(teacher.state_dict())
    assert model.loss(inputs, samples)['lwf_loss'].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('symmetric', [False, True])
@pytest.mark.parametrize('pool', ['queries', 'keys', 'both'])
def test_the_distance_of_maps_by_slow_loops(symmetric, pool):
    before, after = np.random.default_rng(0).normal(size=(2, 2, 3, 4, 5))

    def pooled(maps):
        vector = []
        if pool in ('queries', 'both'):
            vector += [sum(maps[h, n, m] for n in range(4)) for h in range(3) for m in range(5)]
        if pool in ('keys', 'both'):
            vector += [sum(maps[h, n, m] for m in range(5)) for h in range(3) for n in range(4)]
        return np.array(vector) / np.linalg.norm(vector)

    expected = []
    for one, other in zip(before, after):
        difference = pooled(one**2) - pooled(other**2) if symmetric else np.maximum(pooled(one) - pooled(other), 0)
        expected.append(np.linalg.norm(difference))
    found = map_distance(torch.from_numpy(before), torch.from_numpy(after), pool, symmetric)
    assert found.item() == pytest.approx(np.mean(expected))


def test_equal_maps_cost_nothing_and_only_attention_that_is_lost_has_a_gradient(monkeypatch):
    """The gradient is that of the pooled and normalized map of the new network."""
    before, after = torch.randn(2, 2, 3, 5, 5).requires_grad_()
    for symmetric in (False, True):
        distance = map_distance(before, before, 'both', symmetric)
        assert distance.item() == 0 and not torch.autograd.grad(distance, before, retain_graph=True)[0].any()
    pooled = []

    def keep(maps, pool, pool_maps=attention_distillation.pool_maps):
        pooled.append(pool_maps(maps, pool))
        pooled[-1].retain_grad()
        return pooled[-1]

    monkeypatch.setattr(attention_distillation, 'pool_maps', keep)
    map_distance(before, after, 'both').backward()
    old, new = pooled
    lost = old > new
    assert 0 < lost.sum() < lost.numel()
    assert (new.grad[lost] < 0).all() and not new.grad[~lost].any()


@pytest.mark.parametrize('maps', ['attention', 'functional'])
def test_maps_are_those_that_the_model_writes_out(old, maps):
    """q·k without Φp, or attention·v, of all blocks of both networks."""
    path, teacher = old
    model, (inputs, samples) = classifier(1, path, map_loss=dict(MAPS, maps=maps, loss_weight=0.5)).eval(), batch()
    written = []
    for one in (teacher, model):
        seen = []
        handles = [block.attn.register_forward_hook(lambda attn, args, out, seen=seen: seen.append(
            attn.attention_maps(*args))) for block in one.backbone.blocks]
        one(inputs)
        for handle in handles:
            handle.remove()
        written.append([heads if maps == 'functional' else found['scores'] for heads, found in seen])
    expected = sum(map_distance(before, after) for before, after in zip(*written)) / 3 / 2
    assert model.loss(inputs, samples)['map_loss'].item() == pytest.approx(expected.item(), rel=1e-4)


def test_positions_are_distilled_without_the_old_network_seeing_an_image(old):
    path, teacher = old
    model, (inputs, samples) = classifier(1, path, position_loss=POSITION), batch()
    model.old.forward = None  # not called
    loss = model.loss(inputs, samples)['position_loss']
    expected = []
    for before, after in zip(*(one.backbone.position_terms((7, 7)) for one in (teacher, model))):
        before, after = (x.exp() / x.exp().sum(-1, keepdim=True) for x in (before.double(), after.double()))
        expected.append((before * (before / after).log()).sum(-1).mean())
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4) and loss > 0
    loss.backward()
    assert model.backbone.blocks[0].attn.position.conv1.weight.grad.any()
    assert model.backbone.blocks[0].attn.qkv.weight.grad is None
    shifted = [term + torch.randn(term.shape[:2])[..., None] for term in teacher.backbone.position_terms((7, 7))]
    distance = PositionDistillation()(teacher.backbone.position_terms((7, 7)), shifted)
    assert distance.item() == pytest.approx(0, abs=1e-6), 'a factor of a row cancels'


def test_the_old_network_is_frozen_and_no_part_of_checkpoints(old):
    path, teacher = old
    options = dict(LWF, map_loss=MAPS, position_loss=POSITION, backbone=dict(drop_path_rate=0.5))
    model = classifier(1, path, **options)
    kept = model.old.model
    assert model.state_dict().keys() == teacher.state_dict().keys()
    assert all(param.data_ptr() != other.data_ptr() for param, other in zip(model.parameters(), kept.parameters()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    assert not any(module.training for module in kept.modules())
    for _ in range(2):
        inputs, samples = batch()
        losses = model.loss(inputs, samples)
        assert list(losses) == ['loss', 'lwf_loss', 'map_loss', 'position_loss']
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    for key, value in kept.state_dict().items():
        assert torch.equal(value, teacher.state_dict()[key]), key
    assert not any(param.requires_grad for param in kept.parameters())
    copied = copy.deepcopy(model)
    assert copied.old.model is not kept and torch.equal(copied.old(inputs), model.old(inputs))
    assert next(model.double().old.model.parameters()).dtype == torch.float64, 'it moves with the model'
    assert FrozenModel(None).model is None


def test_finetuning_and_lwf_record_nothing(old, monkeypatch):
    monkeypatch.setattr('pervit_mm.selfsup.continual.record_blocks', None)
    for model in (classifier(1), classifier(1, old[0], **LWF)):
        model.loss(*batch())


@pytest.mark.parametrize('change, words', [
    (dict(task=3), 'task of DistilledClassifier must be from 0 to 2, got 3'),
    (dict(tasks=[[0, 1], [1]]), 'must be different numbers of classes'), (dict(tasks=[[5]]), 'num_classes of the head'),
    (dict(lwf_weight=-1), 'lwf_weight'), (dict(temperature=0), 'temperature must be a number above 0'),
    (dict(task=1, lwf_weight=1.), 'old of DistilledClassifier must be the checkpoint .* got old=None, task=1 and such'),
    (dict(old='x.pth', task=1), 'no such a loss'), (dict(map_loss=dict(MAPS, pool='heads')), "got 'heads'"),
    (dict(map_loss=dict(MAPS, maps='values')), "got 'values'"),
    (dict(data_preprocessor=dict(type='ClsDataPreprocessor', num_classes=5, batch_augments=dict(
        augments=[dict(type='Mixup', alpha=0.2)]))), 'batch_augments of data_preprocessor, such as Mixup, must be'),
])
def test_mistakes(change, words):
    options = dict(tasks=TASKS, backbone=dict(type='PerViT', arch=TINY_ARCH, img_size=28, in_channels=1),
                   head=dict(type='LinearClsHead', num_classes=5, in_channels=24))
    with DefaultScope.overwrite_default_scope('mmpretrain'), pytest.raises(UserError, match=words):
        MODELS.build(dict(type='DistilledClassifier', **{**options, **change}))


def test_an_old_network_of_another_shape_is_told(old):
    with pytest.raises(UserError, match='is of another network than the config'):
        classifier(1, old[0], lwf_weight=1., backbone=dict(qkv_bias=True))
    with record_blocks(classifier(backbone=dict(position_cfg=None)).backbone) as records:
        pass
    with pytest.raises(UserError, match='needs blocks with Φp'):
        PositionDistillation()([None], [None])
    assert records == [] and MapDistillation().loss_weight == 1


def test_images_of_other_tasks_are_told_ahead_of_training():
    class Labeled:
        def get_gt_labels(self):
            return np.array([1, 4, 2])

    with pytest.raises(UserError, match=r'has images of the classes \[1, 2, 4\], and the task has \[1, 4\]'):
        classifier(1).check_pipeline(Labeled())


def test_average_accuracy_and_forgetting_of_a_table_by_hand():
    """Task 0 was best behind task 1; task 2 is new and forgets nothing."""
    table = [[90.], [92., 80.], [70., 78., 99.]]
    assert average_accuracy(table) == pytest.approx((70 + 78 + 99) / 3)
    assert forgetting(table) == pytest.approx(((92 - 70) + (80 - 78)) / 2)
