"""From features to the logits that students and teachers compare."""
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from .checks import check_counts


@MODELS.register_module()
class DistillationNeck(BaseModule):
    """DINO's projection head (Caron et al. 2021): an MLP, a point on the sphere, and its cosines with prototypes.

    ``torch.nn.utils.weight_norm`` can't be copied for the teacher. So the prototypes are normed here, in forward. That
    equals a weight norm with its gain fixed at 1.

    Args:
        in_channels (int): Width C of the features.
        out_channels (int): Number K of prototypes. Defaults to 65536, DINO's.
        hid_channels (int): Hidden width. Defaults to 2048.
        bottleneck_channels (int): Width of the normed features. Defaults to 256.
        num_layers (int): Linear layers of the MLP, GELU between them. Defaults to 3.
        init_cfg (dict, optional): Defaults to None: Linear layers from a truncated normal of standard deviation 0.02,
            as DINO's.

    Attributes:
        prototypes (nn.Parameter): ``(K, bottleneck_channels)``. DINO freezes them in the first epoch, see
            :class:`pervit_mm.selfsup.DistillationHook`.

    Raises:
        UserError: If a number is not a positive integer.
    """

    def __init__(self, in_channels: int, out_channels: int = 65536, hid_channels: int = 2048,
                 bottleneck_channels: int = 256, num_layers: int = 3, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg or dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.))
        check_counts('DistillationNeck', in_channels=in_channels, out_channels=out_channels, hid_channels=hid_channels,
                     bottleneck_channels=bottleneck_channels, num_layers=num_layers)
        widths = [in_channels] + [hid_channels] * (num_layers - 1) + [bottleneck_channels]
        self.in_channels, self.out_channels = in_channels, out_channels
        self.bottleneck_channels = bottleneck_channels
        self.mlp = nn.Sequential()
        for i, (width_in, width) in enumerate(zip(widths, widths[1:])):
            if i:
                self.mlp.append(nn.GELU())
            self.mlp.append(nn.Linear(width_in, width))
        # Only the directions count. Equal chances for all of them.
        self.prototypes = nn.Parameter(torch.randn(out_channels, bottleneck_channels) * bottleneck_channels**-0.5)

    @torch.no_grad()
    def norm_prototypes(self) -> None:
        """Set the length of all prototypes to 1, which changes no logit.

        Otherwise their length drifts under weight decay, and with it the angle that a step of the optimizer makes.
        """
        self.prototypes.copy_(F.normalize(self.prototypes, dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(..., C)`` to logits ``(..., K)``: cosines, so from -1 to 1."""
        return self.compare(self.embed(x))

    def embed(self, x: Tensor) -> Tensor:
        """Features ``(..., C)`` to points ``(..., bottleneck_channels)`` of length 1."""
        x = self.mlp(x)
        return F.normalize(x.float() if _autocasts_to_bfloat16(x) else x, dim=-1)

    def compare(self, points: Tensor) -> Tensor:
        """Points ``(..., bottleneck_channels)`` of length 1 to their cosines ``(..., K)`` with the prototypes."""
        if _autocasts_to_bfloat16(points):
            # Cosines of 8 bits, divided by the teacher's temperature, would be steps of 0.1.
            with torch.autocast(points.device.type, enabled=False):
                return F.linear(points, F.normalize(self.prototypes.float(), dim=-1))
        return F.linear(points, F.normalize(self.prototypes, dim=-1))


def _autocasts_to_bfloat16(x: Tensor) -> bool:
    """Whether layers on the device of a tensor compute in bfloat16."""
    device = x.device.type
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
