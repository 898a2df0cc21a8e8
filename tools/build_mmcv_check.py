"""Import mmcv's compiled ops and compare them with values worked out by hand; build_mmcv.py runs this.

Where there is CUDA, the ops must work on it too. A wheel that was built without a GPU at hand has ops for the CPU only.
"""
import json

import mmcv
import torch
from mmcv.ops import MultiScaleDeformableAttention, nms, roi_align


def check(device: str) -> None:
    """Run three ops on a device.

    Args:
        device (str): Such as 'cpu' or 'cuda'.

    Raises:
        SystemExit: If a value is wrong.
        RuntimeError: If an op cannot run on the device.
    """
    boxes = torch.tensor([[0., 0., 10., 10.], [1., 1., 10., 10.], [20., 20., 30., 30.]], device=device)
    kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)[1].tolist()
    if kept != [0, 2]:
        raise SystemExit(f'nms on {device} keeps {kept} where [0, 2] is right')
    ramp = torch.arange(8., device=device).repeat(8, 1)[None, None]
    value = roi_align(ramp, torch.tensor([[0., 2., 2., 6., 6.]], device=device), (1, 1), 1.0, 2).item()
    if abs(value - 3.5) > 1e-5:
        raise SystemExit(f'roi_align on {device} gives {value} where 3.5 is right')
    attention = MultiScaleDeformableAttention(8, 2, 1, 4, dropout=0., batch_first=True).eval()
    torch.nn.init.eye_(attention.value_proj.weight)
    torch.nn.init.eye_(attention.output_proj.weight)
    torch.nn.init.zeros_(attention.sampling_offsets.bias)
    ramp = torch.arange(4.).repeat(4).view(1, 16, 1).expand(1, 16, 8)
    value = attention.to(device)(
        torch.zeros(1, 1, 8, device=device), value=ramp.to(device),
        reference_points=torch.full((1, 1, 1, 2), 0.5, device=device),
        spatial_shapes=torch.tensor([[4, 4]], device=device), level_start_index=torch.tensor([0], device=device))
    if (value - 1.5).abs().max() > 1e-5:
        raise SystemExit(f'MultiScaleDeformableAttention on {device} gives {value.tolist()} where 1.5 is right')


def main() -> None:
    """Check the CPU and what accelerator there is, and print mmcv's version and file as JSON."""
    check('cpu')
    devices = ['cpu']
    if torch.cuda.is_available():
        try:
            check('cuda')
        except RuntimeError as error:
            first = (str(error).splitlines() or ['no reason given'])[0]
            raise SystemExit(f'its ops work on the CPU only, and this machine has CUDA: {first}') from error
        devices.append('cuda')
    print(json.dumps({'version': mmcv.__version__, 'file': mmcv.__file__, 'devices': devices}))


if __name__ == '__main__':
    main()
