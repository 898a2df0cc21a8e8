"""DDP meets no unused parameter, whatever is frozen or switched off, on the CPU and on CUDA."""
import pytest
import torch
import torch.distributed as dist
from conftest import DEVICES, TINY_ARCH, randomize
from torch.nn.parallel import DistributedDataParallel

from pervit_mm.models import PerViT


@pytest.fixture(params=DEVICES)
def device(request, tmp_path):
    """The device, with a process group of one process. DDP looks for unused parameters there too."""
    device = request.param
    dist.init_process_group('nccl' if device == 'cuda' else 'gloo', init_method=f'file://{tmp_path}/store', rank=0,
                            world_size=1)
    yield device
    dist.destroy_process_group()


@pytest.mark.parametrize('kwargs', [
    dict(), dict(frozen_stages=1), dict(out_indices=(0, )),
    dict(out_indices=(0, 1, 2), out_type='featmap', with_cp=True),
    dict(window_size=4, global_attn_indexes=(1, )), dict(position_cfg=dict(type='PerViTRelativePositionBias'))
])
def test_ddp_meets_no_unused_parameter(device, kwargs):
    model = randomize(PerViT(TINY_ARCH, img_size=28, **kwargs)).to(device)
    wrapped = DistributedDataParallel(model, device_ids=[0] if device == 'cuda' else None)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):  # DDP complains one step after a step that left a parameter out
        optimizer.zero_grad()
        outs = wrapped(torch.randn(2, 3, 28, 28, device=device))
        sum(out.square().mean() for out in outs).backward()
        optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters())]
    assert any(moved) and not any(m for m, p in zip(moved, model.parameters()) if not p.requires_grad)
