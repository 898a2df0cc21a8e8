"""Self-distillation in two processes: one teacher, one center, and candidates of both for the contrast."""
import pytest
import torch
from conftest import naming
from distillation_run import ESVIT, IBOT, distiller, make_views
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from two_processes import process_group, second_process

from pervit_mm.selfsup import ContrastHead

pytestmark = pytest.mark.usefixtures('one_thread')
BATCH, STEPS = 4, 2


def two_steps(wrap, share):
    """Train EsViT, without BatchNorm's batches, on a share of two batches; return teacher, centers, and more."""
    model = distiller(ESVIT, backbone=dict(norm_eval=True)).train()
    optim_wrapper = OptimWrapper(torch.optim.SGD(
        [param for param in model.parameters() if param.requires_grad], lr=0.1))
    trained, generator = wrap(model), torch.Generator().manual_seed(2)
    for step in range(STEPS):
        views = [torch.randn(BATCH, 1, size, size, generator=generator)[share] for size in (28, 28, 16)]
        model.set_progress(step / STEPS)
        trained.train_step(dict(inputs=views, data_samples=None), optim_wrapper)
        model.update_teacher()
    found = {key: value.clone() for key, value in model.state_dict().items()}
    # Candidates of the contrast come from all processes, so the mean over them is the loss of the whole batch.
    student, teacher = torch.randn(2, 4, 5, generator=generator)
    found['contrast'], found['accuracy'] = ContrastHead().loss(student[share], teacher[share])
    return found


def run_rank(rank, folder):
    """One of two processes that train in step over gloo, each on half of the batch."""
    with process_group(rank, folder):
        half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
        found = two_steps(lambda model: MMDistributedDataParallel(model, broadcast_buffers=False), half)
        # The first rank hides nothing. DDP would complain of a mask token without a gradient in the next step.
        model = distiller(IBOT, masking=dict(type='TokenBlockMask', prob=float(rank))).train()
        wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
        optim_wrapper = OptimWrapper(torch.optim.SGD(model.backbone.parameters(), lr=0.1))
        for _ in range(STEPS):
            wrapped.train_step(dict(inputs=make_views(2), data_samples=None), optim_wrapper)
            model.update_teacher()
        return found, {key: value for key, value in model.state_dict().items() if 'running' not in key}


def test_two_processes_have_one_teacher_and_one_center(tmp_path):
    """Equal to the bit on both, and those of one process on the joined batch up to rounding."""
    with second_process(__file__, tmp_path) as other:
        expected = two_steps(lambda model: model, slice(None))
        start = distiller(ESVIT).state_dict()
        first, first_ibot = run_rank(0, tmp_path)
    (second, second_ibot), = other
    for key in ('contrast', 'accuracy'):
        torch.testing.assert_close((first.pop(key) + second.pop(key)) / 2, expected.pop(key))
    for key, value in expected.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-6, msg=naming(key))
        if key.endswith(('prototypes', '.center')):
            assert not torch.equal(value, start[key]), key
    assert first_ibot and all(torch.equal(value, second_ibot[key]) for key, value in first_ibot.items())
