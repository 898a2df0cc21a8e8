"""PerViT that drops hidden tokens."""
from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor

from ..models import PerViT
from ..models.layers import check_hidden, token_grid
from ..ops import take_pairs, take_tokens
from ..utils.errors import UserError
from .mask_token import as_hidden
from .masked_stem import can_skip_hidden, embed_visible


@MODELS.register_module()
class MAEPerViT(PerViT):
    """PerViT that runs on the visible tokens alone, the encoder of MAE (He et al. 2022).

    Most tokens are hidden, and a step costs a fraction of a full one. Three parts know more than single tokens:

    - The stem looks past the borders of a token. It sees zeros in hidden tokens, ahead of each of its layers, as in
      :class:`pervit_mm.selfsup.MaskTokenPerViT`. It is computed at visible tokens only, where sides are whole tokens.
    - log Φp is made once for the grid. Each image takes the rows and columns of its visible tokens.
    - Conditional position encoding puts the tokens back on the grid, with zeros where tokens are hidden.

    The result is that of the full grid with hidden tokens at zero ahead of each conditional position encoding, and with
    their keys at minus infinity. Checkpoints load into :class:`pervit_mm.models.PerViT` and back.

    Args:
        *args: Of :class:`pervit_mm.models.PerViT`.
        mask_ratio (float): Share of hidden tokens, above 0 and below 1; ``int((1 - mask_ratio) * N)`` of N tokens stay,
            and at least one. Defaults to 0.75.
        **kwargs: Of :class:`pervit_mm.models.PerViT`, without windows, and with the last block as the only output.
            ``out_type`` is for whole images.

    Raises:
        UserError: If ``mask_ratio`` is out of range, a block has a window, or the last block is not the only output.

    Examples:
        >>> import torch
        >>> from pervit_mm.selfsup import MAEPerViT
        >>> model = MAEPerViT('nano', img_size=28, in_channels=1)
        >>> latent, mask, ids_restore = model(torch.rand(2, 1, 28, 28))
        >>> latent.shape, mask.shape, ids_restore.shape
        (torch.Size([2, 12, 96]), torch.Size([2, 49]), torch.Size([2, 49]))
    """

    def __init__(self, *args, mask_ratio: float = 0.75, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(mask_ratio, bool) or not isinstance(mask_ratio, (int, float)) or not 0 < mask_ratio < 1:
            raise UserError(f'mask_ratio of MAEPerViT must be above 0 and below 1, got {mask_ratio!r}')
        windows = [block.window_size for block in self.blocks]
        if any(window is not None for window in windows):
            raise UserError(f'window_size of MAEPerViT must be None, got {windows}: windows of the grid have different '
                            'numbers of visible tokens. Pre-train without windows; the weights fit both')
        if self.out_indices != (self.num_layers - 1, ):
            raise UserError(f'out_indices of MAEPerViT must be the last block alone, -1, got {self.out_indices}')
        self.mask_ratio = mask_ratio

    def draw_mask(self, images: Tensor, importance: Tensor | None = None) -> Tensor:
        """Draw which tokens are hidden, the same number in each image.

        Visible tokens are drawn one after the other without putting back, each with a probability in proportion to its
        importance.

        Args:
            images (Tensor): ``(B, in_channels, h, w)``, of which only the shape counts.
            importance (Tensor, optional): Of each token, ``(B, H * W)``, at least 0. Defaults to None, all alike.

        Returns:
            Tensor: Boolean ``(B, H, W)`` on the device of the images, True for hidden tokens.

        Raises:
            UserError: If ``importance`` has another shape.
        """
        batch, hw_shape = len(images), token_grid(images, self.out_stride)
        number = hw_shape[0] * hw_shape[1]
        if importance is None:
            importance = torch.ones(batch, number)
        elif importance.shape != (batch, number):
            raise UserError(f'importance must be (B, H * W) = ({batch}, {number}), got {tuple(importance.shape)}: for '
                            'MILAN take a target generator with the grid of the backbone')
        # A share may be rounded to 0, and there may be fewer shares above 0 than tokens to draw.
        importance = importance.float().clamp_min(torch.finfo(torch.float32).tiny)
        visible = importance.multinomial(max(1, int(number * (1 - self.mask_ratio))))
        hidden = torch.ones(batch, number, dtype=torch.bool, device=importance.device)
        return hidden.scatter_(1, visible, False).view(batch, *hw_shape).to(images.device)

    def forward(self, x: Tensor, mask: bool | Tensor | None = True) -> tuple[Tensor, ...]:
        """Run the backbone, on visible tokens or on whole images.

        Args:
            x (Tensor): Images ``(B, in_channels, h, w)``.
            mask (bool | Tensor, optional): True draws masks in training, as MMPretrain's ``MAE`` expects it, and hides
                nothing in eval mode, so that features are those of whole images. False and None hide nothing. A tensor
                ``(B, H, W)`` has 1 or True for hidden tokens, the same number in each image, in either mode: for a
                loss in eval mode, give ``draw_mask(x)`` and run neck and head on what comes back. Defaults to True.

        Returns:
            tuple[Tensor, ...]: With masks the visible tokens ``(B, n, C)``, normed, row by row; the mask ``(B, N)``, 1
            for hidden tokens; and ``ids_restore`` ``(B, N)``: where each token of the grid stands among the visible
            ones followed by the hidden ones. Without, as :meth:`pervit_mm.models.PerViT.forward`.

        Raises:
            UserError: If the mask has another shape or other values than 0 and 1, or images have different numbers of
                hidden tokens, or no visible one.
        """
        if mask is None or mask is False or (mask is True and not self.training):
            return super().forward(x)
        hidden = self.draw_mask(x) if mask is True else as_hidden(mask)
        check_hidden(hidden, x, self.out_stride)
        hw_shape, hidden = tuple(hidden.shape[1:]), hidden.flatten(1)
        order = hidden.byte().argsort(dim=1, stable=True)  # CUDA doesn't sort booleans
        kept = order[:, :_count_visible(hidden)]
        if can_skip_hidden(self.stem, x):
            tokens = embed_visible(self.stem, x, kept)
        else:
            tokens = take_tokens(self.embed(x, hidden.view(-1, *hw_shape))[0], kept)
        terms = KeptPositions(self.position_terms(hw_shape), kept)
        *_, last = self.run_blocks(tokens, hw_shape, terms, kept)
        return getattr(self, f'norm{self.out_indices[-1]}')(last), hidden.to(last.dtype), order.argsort(dim=1)


class KeptPositions(Sequence):
    """log Φp of each block between the visible tokens of each image, ``(B, nH, n, n)``, made when it is asked for.

    Args:
        log_positions (Sequence[Tensor, optional]): log Φp of the grid, ``(nH, N, N)`` for each block, or None.
        kept (Tensor): Numbers of the visible tokens, ``(B, n)``.
    """

    def __init__(self, log_positions: Sequence[Tensor | None], kept: Tensor) -> None:
        self._log_positions, self._kept = log_positions, kept

    def __len__(self) -> int:
        return len(self._log_positions)

    def __getitem__(self, block: int) -> Tensor | None:
        whole = self._log_positions[block]
        return None if whole is None else take_pairs(whole, self._kept)


def _count_visible(hidden: Tensor) -> int:
    """Number of visible tokens of each image, or UserError if images differ or one has none."""
    least, most = (~hidden).sum(1).aminmax()
    least, most = int(least), int(most)
    if least != most or not least:
        raise UserError(f'mask must leave the same number of tokens of each image visible, and at least one, got '
                        f'{least} to {most}')
    return least
