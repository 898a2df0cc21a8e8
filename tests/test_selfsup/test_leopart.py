"""Leopart: its loss by a slow loop, its queue, a run that resumes to the bit, and two processes that are one."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import naming, randomize
from distillation_run import BACKBONE, distillation_runner
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from torchvision.ops import roi_align
from two_processes import process_group, second_process

from pervit_mm.selfsup import ClusterHead, Leopart
from pervit_mm.selfsup.regions import overlap_regions
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')
SIZES, CLUSTERS = (28, 28, 16), 6
BOXES = np.array([[0, 0, 20, 20], [4, 6, 24, 26], [8, 8, 18, 16]], np.float32)
MODEL = dict(
    type='Leopart', backbone=BACKBONE, momentum=0.9,
    neck=dict(type='DistillationNeck', in_channels=24, out_channels=CLUSTERS, hid_channels=12, bottleneck_channels=5),
    # It is full from the second step on, and takes all of the foreground.
    head=dict(type='ClusterHead', out_channels=CLUSTERS, in_channels=5, queue_size=30, per_image=49))


def leopart(**options):
    """A model with random weights, student and teacher apart, at the start of a run."""
    config = {**MODEL, **options}
    config.pop('type')
    model = randomize(Leopart(**config))
    model.set_progress(0.)
    return model.train()


def samples(number, boxes=BOXES, flipped=False):
    """What MultiCropWithBoxes and PackInputs tell of each image; boxes differ from image to image."""
    found = []
    for index in range(number):
        sample = DataSample()
        sample.boxes, sample.flipped = boxes + np.float32(index), np.full(len(boxes), flipped)
        found.append(sample)
    return found


def batch(number=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(number, 1, size, size, generator=generator) for size in SIZES], samples(number)


def head_example():
    """Two views of the teacher and three of the student, on grids of 6 x 6 and 4 x 4 tokens."""
    head = ClusterHead(5, 3, queue_size=0, roi_size=4, student_temp=0.3)
    logits = [torch.randn(2, 5, side, side, requires_grad=True) for side in (6, 6, 4)]
    shares = [torch.rand(2, 5, 6, 6).softmax(1) for _ in range(2)]
    masks = [torch.ones(2, 6, 6).bool(), torch.zeros(2, 6, 6).bool()]
    masks[0][:, :3], masks[1][0, :, 3:] = False, True
    boxes = torch.from_numpy(np.stack([BOXES, BOXES + 1]))
    return head, logits, shares, masks, boxes


def test_the_loss_is_the_mean_over_pairs_of_means_over_foreground_points():
    head, logits, shares, masks, boxes = head_example()
    terms, counts = [], []
    for q in range(2):
        for v in range(3):
            if v == q:
                continue
            points = []
            for i in range(2):
                x1, y1 = torch.maximum(boxes[i, q, :2], boxes[i, v, :2]).tolist()
                x2, y2 = torch.minimum(boxes[i, q, 2:], boxes[i, v, 2:]).tolist()

                def read(values, view):
                    left, top, right, bottom = boxes[i, view].tolist()  # noqa: B023
                    side = values.shape[-1]
                    box = [(x1 - left) / (right - left) * side, (y1 - top) / (bottom - top) * side,  # noqa: B023
                           (x2 - left) / (right - left) * side, (y2 - top) / (bottom - top) * side]  # noqa: B023
                    return roi_align(values[None].float(), [torch.tensor([box])], 4, aligned=True)[0]

                target, seen = read(shares[q][i], q), read(logits[v][i], v)
                inside = read(masks[q][i][None], q)[0]
                for a in range(4):
                    for b in range(4):
                        if inside[a, b] > 0.999:
                            points.append(-(target[:, a, b] * (seen[:, a, b] / 0.3).log_softmax(0)).sum().item())
            counts.append(len(points))
            terms.append(sum(points) / max(1, len(points)))
    assert len(terms) == 4 and min(counts) > 0
    loss = head.loss(logits, shares, masks, overlap_regions(boxes, 2))
    assert loss.item() == pytest.approx(sum(terms) / 4, rel=1e-5)
    loss.backward()
    assert all(view.grad.any() for view in logits)


def test_without_foreground_the_loss_is_zero_and_has_a_gradient():
    head, logits, shares, masks, boxes = head_example()
    loss = head.loss(logits, shares, [torch.zeros_like(mask) for mask in masks], overlap_regions(boxes, 2))
    loss.backward()
    assert loss.item() == 0 and all(view.grad is not None and not view.grad.any() for view in logits)


def test_logits_of_zero_give_ln_k():
    head, logits, shares, masks, boxes = head_example()
    loss = head.loss([torch.zeros_like(view) for view in logits], shares, masks, overlap_regions(boxes, 2))
    assert loss.item() == pytest.approx(np.log(5), rel=1e-5)


def test_a_queue_keeps_foreground_tokens_and_balances_once_it_is_full():
    """The newest stand first. A half-full queue plays no part; a full one counts as samples of the batch."""
    head = ClusterHead(3, 2, num_views=1, queue_size=6, per_image=4)
    compare = torch.nn.Linear(2, 3)
    first, second = torch.randn(2, 1, 9, 2)
    mask = torch.zeros(1, 9).bool()
    mask[0, ::2] = True
    before, = head.assign([second], compare)
    head.store([first], [mask])
    assert head.filled.tolist() == [4]
    assert all((row == first[0, ::2]).all(1).any() for row in head.queue[0, :4]) and not head.queue[0, 4:].any()
    assert len({tuple(row.tolist()) for row in head.queue[0, :4]}) == 4
    assert torch.equal(head.assign([second], compare)[0], before)
    oldest = head.queue[0, :2].clone()
    head.store([second], [~mask])
    assert head.filled.tolist() == [6] and torch.equal(head.queue[0, 4:], oldest)
    assert {tuple(row.tolist()) for row in head.queue[0, :4]} == {tuple(row.tolist()) for row in second[0, 1::2]}
    joined, = ClusterHead(3, 2, num_views=1, queue_size=0).assign(
        [torch.cat([second, head.queue], dim=1)], compare)
    found, = head.assign([second], compare)
    torch.testing.assert_close(found, joined[:, :9])
    assert (found - before).abs().max() > 1e-3
    assert set(head.state_dict()) == {'queue', 'filled'}


def test_the_teacher_has_no_gradient_and_assigns_by_its_own_weights():
    model = leopart()
    views, data_samples = batch()
    losses = model.loss(views, data_samples)
    losses['cluster_loss'].backward()
    assert all(param.grad is None for param in model.teacher.parameters())
    assert all(param.grad is not None and param.grad.any() for name, param in model.backbone.named_parameters()
               if 'position' not in name)
    assert 0 < losses['foreground'] < 1 and 0 < losses['entropy'] < 1 and 0 <= losses['agreement'] <= 1


def test_prototypes_are_on_the_sphere_again_ahead_of_each_step():
    """Of student and teacher, however long weight decay made them."""
    model = leopart()
    with torch.no_grad():
        for neck in (model.neck, model.teacher.module['neck']):
            neck.prototypes.mul_(torch.linspace(0.5, 3, len(neck.prototypes))[:, None])
    directions = F.normalize(model.neck.prototypes.detach(), dim=-1)
    model.loss(*batch())
    torch.testing.assert_close(model.neck.prototypes.detach(), directions)
    torch.testing.assert_close(model.teacher.module['neck'].prototypes.norm(dim=-1), torch.ones(len(directions)))


def test_the_foreground_is_where_the_teacher_attends():
    """The attention of an earlier method, AttMask's, in the same model."""
    model = leopart()
    seen = {}
    model.head.store = lambda points, foreground: seen.update(foreground=foreground)
    views, data_samples = batch()
    model.eval()
    model.loss(views, data_samples)
    _, attention = model.teacher_attention(views[:2])
    torch.testing.assert_close(attention.sum(1), torch.ones(8))
    held = [(part * mask).sum(1) for part, mask in zip(attention.chunk(2), seen['foreground'])]
    share = torch.cat([mask.float().mean(1) for mask in seen['foreground']])
    assert (torch.cat(held) > share).all()


def test_a_resumed_run_repeats_the_undisturbed_one_to_the_bit(tmp_path):
    """Queues and the draws that fill them included."""
    model = {**MODEL, 'head': {**MODEL['head'], 'per_image': 3}}

    def run(name, **options):
        runner = distillation_runner(tmp_path / name, model, epochs=3,
                                     checkpoint=dict(type='PerViTCheckpointHook', interval=1), **options)
        runner.train()
        return dict(runner.model.state_dict())

    expected = run('whole')
    found = run('resumed', resume=True, load_from=str(tmp_path / 'whole' / 'epoch_1.pth'))
    assert expected['head.filled'].tolist() == [30, 30] and expected['teacher.steps'] == 6
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key


def one_step(wrap, share):
    """Train without BatchNorm's batches on a share of a batch; return weights, teacher, assignments, queue."""
    model, generator = leopart(backbone=dict(BACKBONE, norm_eval=True)), torch.Generator().manual_seed(1)
    head, (views, data_samples) = model.head, batch()
    head.queue.copy_(torch.nn.functional.normalize(torch.randn(head.queue.shape, generator=generator), dim=-1))
    head.filled.fill_(30)
    points = torch.nn.functional.normalize(torch.randn(4, 9, 5, generator=generator), dim=-1)[share]
    assigned = head.assign([points, points], model.teacher.module['neck'].compare)
    optim_wrapper = OptimWrapper(torch.optim.SGD(
        [param for param in model.parameters() if param.requires_grad], lr=0.5))
    wrap(model).train_step(dict(inputs=[view[share] for view in views], data_samples=data_samples[share]),
                           optim_wrapper)
    model.update_teacher()
    found = {key: value for key, value in model.state_dict().items() if not key.startswith('head.')}
    # Two tokens of the first image, one of the second, none and four of the others.
    mask = torch.arange(9) < torch.tensor([2, 1, 0, 4])[share, None]
    head.store([points, points], [mask, mask])
    return found, torch.stack(assigned), head.queue


def run_rank(rank, folder):
    """One of two processes that train in step over gloo, each on half of the batch."""
    with process_group(rank, folder):
        half = slice(rank * 2, (rank + 1) * 2)
        return one_step(lambda model: MMDistributedDataParallel(model, broadcast_buffers=False), half)


def test_two_processes_are_one_with_the_joined_batch(tmp_path):
    """Assignments, student and teacher. New tokens of both stand in the queue of each, in any order."""
    with second_process(__file__, tmp_path) as other:
        expected, assigned, queue = one_step(lambda model: model, slice(None))
        first, first_assigned, first_queue = run_rank(0, tmp_path)
    (second, second_assigned, second_queue), = other
    start = leopart().state_dict()
    torch.testing.assert_close(torch.cat([first_assigned, second_assigned], dim=1), assigned)
    for key, value in expected.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-6, msg=naming(key))
        assert not key.endswith('prototypes') or not torch.equal(value, start[key]), key
    assert torch.equal(first_queue, second_queue)
    for one, other in zip(first_queue[:, :7], queue[:, :7]):  # in any order
        assert len(set(map(tuple, other.tolist()))) == 7 and sorted(one.tolist()) == sorted(other.tolist())


@pytest.mark.parametrize('change, message', [
    (dict(data_samples=None), r"must have boxes of all 3 views: put algorithm_keys=\('boxes', 'flipped'\)"),
    (dict(data_samples=[DataSample()] * 4), 'must have boxes of all 3 views'),
    (dict(data_samples=samples(4, flipped=True)), 'must not be flipped'),
    (dict(data_samples=samples(4, BOXES * np.float32([[1], [9], [1]]))), 'set min_overlap=0.01'),
    (dict(inputs=[torch.zeros(4, 1, size, size) for size in (28, 28, 18)]), 'must be multiples of a token, 4 px'),
])
def test_views_that_have_no_places_are_told(change, message):
    views, data_samples = batch()
    with pytest.raises(UserError, match=message):
        leopart().loss(**{**dict(inputs=views, data_samples=data_samples), **change})


def test_mistakes():
    for options, message in (
            (dict(out_channels=1), 'out_channels of ClusterHead must be at least 2'),
            (dict(queue_size=-1), 'queue_size of ClusterHead must be a number of tokens of at least 0, got -1'),
            (dict(epsilon=0), 'epsilon must be a number above 0'), (dict(roi_size=0), 'roi_size of ClusterHead')):
        with pytest.raises(UserError, match=message):
            ClusterHead(**options)
    for change, message in ((dict(out_channels=5), 'out_channels of head must be out_channels of its neck, 6, got 5'),
                            (dict(in_channels=9), 'in_channels of head must be bottleneck_channels of its neck, 5')):
        with pytest.raises(UserError, match=message):
            leopart(head={**MODEL['head'], **change})


def test_what_learns_nothing_is_told():
    log = dict(entropy=0.5, foreground=0.4)
    assert leopart().collapsed(log) is None
    assert 'lower epsilon' in leopart().collapsed(dict(log, entropy=0.995))
    assert 'raise mass' in leopart().collapsed(dict(log, foreground=0.))
