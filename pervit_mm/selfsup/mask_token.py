"""PerViT for masked image modeling."""
import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..models import PerViT
from ..utils.errors import UserError, UserTypeError


@MODELS.register_module()
class MaskTokenPerViT(PerViT):
    """PerViT that sees a learned token in place of each hidden one, for SimMIM (Xie et al. 2022).

    The convolutional stem looks past the borders of a token, so hidden pixels would leak into visible tokens. Here no
    output depends on them: they are zero ahead of the stem, hidden positions are zero after each of its layers, and
    BatchNorm counts visible positions only, see :class:`pervit_mm.models.ConvStem`. Without a mask this is PerViT, and
    checkpoints load into either class.

    Args:
        *args, **kwargs: Of :class:`pervit_mm.models.PerViT`. MMPretrain's ``SimMIM`` needs ``out_type='featmap'``.

    Examples:
        >>> import torch
        >>> from pervit_mm.selfsup import MaskTokenPerViT
        >>> model = MaskTokenPerViT('nano', img_size=28, in_channels=1, out_type='featmap')
        >>> mask = torch.zeros(2, 7, 7)
        >>> mask[:, :4] = 1
        >>> model(torch.rand(2, 1, 28, 28), mask)[0].shape
        torch.Size([2, 96, 7, 7])
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        # The width of the tokens that the stem gives; later blocks are wider.
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.arch_settings['embed_dims'][0]))

    def init_weights(self) -> None:
        """Initialize as PerViT does, and the mask token from a truncated normal of standard deviation 0.02."""
        first = not self.is_init
        super().init_weights()
        if first:
            nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Run the backbone.

        Args:
            x (Tensor): Images ``(B, in_channels, h, w)``.
            mask (Tensor, optional): ``(B, H, W)``, 1 or True for hidden tokens, as MMPretrain's ``SimMIMMaskGenerator``
                makes it. Defaults to None, nothing hidden.

        Returns:
            tuple[Tensor, ...]: As :meth:`pervit_mm.models.PerViT.forward`.

        Raises:
            UserError: If the mask has another shape, or other values than 0 and 1.
        """
        if mask is None:
            return super().forward(x)
        hidden = as_hidden(mask)
        tokens, hw_shape = self.embed(x, hidden)
        # With an empty mask too the token is in the graph, or DDP would miss its gradient.
        tokens = torch.where(hidden.flatten(1)[..., None], self.mask_token.to(tokens.dtype), tokens)
        return self.forward_tokens(tokens, hw_shape)


def as_hidden(mask: Tensor) -> Tensor:
    """A mask of 0 and 1 as booleans, or UserError."""
    if not isinstance(mask, Tensor):
        raise UserTypeError(f'mask must be a tensor (B, H, W), got a {type(mask).__name__}')
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise UserError('mask must hold 0 for visible and 1 for hidden tokens, got other values: give one entry for '
                        'each token, not for each pixel, and no weights')
    return mask.bool()
