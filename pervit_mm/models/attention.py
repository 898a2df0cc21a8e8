"""Multi-head peripheral attention: content times position."""

from torch import Tensor, nn

from ..ops import attend_by_position, attend_in_windows, peripheral_attention, plain_attention, spread_windows
from ..utils.errors import UserError
from .position import BasePosition


class PeripheralAttention(nn.Module):
    """Multi-head peripheral attention, MPA (paper: multi-head peripheral attention).

    out = normalize_rows(Φc ⊙ Φp)·v, computed as softmax(q·kᵀ/√d + log Φp)·v. The attention holds the block's position
    module but never calls it: log Φp is an input beside the tokens. So the attention does not see distances, and Φp
    does not see the image.

    Args:
        embed_dims (int): Width C of the tokens.
        num_heads (int): Heads nH; d = C / nH.
        position (BasePosition, optional): Makes log Φp. None stands for Φp = 1. Defaults to None.
        content (bool): Whether content takes part. With False there are no queries and keys, and attention goes by
            position alone. Defaults to True.
        qkv_bias (bool): Whether the projection to q, k, v has a bias. Defaults to False.
        proj_drop (float): Dropout rate of the output. Defaults to 0.

    Raises:
        UserError: If neither content nor position takes part.
    """

    def __init__(self, embed_dims: int, num_heads: int, position: BasePosition | None = None,
                 content: bool = True, qkv_bias: bool = False, proj_drop: float = 0.) -> None:
        super().__init__()
        if not content and position is None:
            raise UserError('content=False attends by position alone and needs a position_cfg, got None')
        self.num_heads = num_heads
        self.content = content
        if content:
            self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        else:
            self.v = nn.Linear(embed_dims, embed_dims, bias=qkv_bias)
        self.position = position
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop)

    def heads(self, x: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Tokens ``(B, N, C)`` to q, k, v ``(B, nH, N, d)``; q and k are None without content."""
        b, n, c = x.shape
        if not self.content:
            return None, None, self.v(x).reshape(b, n, self.num_heads, c // self.num_heads).transpose(1, 2)
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def _attend(self, x: Tensor, log_position: Tensor | None) -> Tensor:
        """Attention among all tokens of ``(B, N, C)``, before the output projection."""
        q, k, v = self.heads(x)
        if self.content:
            out = peripheral_attention(q, k, v, log_position)
        else:
            out = attend_by_position(v, log_position)
        return out.transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, hw_shape: tuple[int, int], log_position: Tensor | None = None,
                window_size: tuple[int, int] | None = None) -> Tensor:
        """Attend.

        Args:
            x (Tensor): Tokens ``(B, N, C)``.
            hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
            log_position (Tensor, optional): log Φp of the grid ``(nH, N, N)``, or of the window. Where each image has
                other tokens, ``(B, nH, N, N)``, without windows.
            window_size (tuple[int, int], optional): Window (h, w) in tokens; None attends globally.

        Returns:
            Tensor: ``(B, N, C)``.
        """
        if window_size is None:
            out = self._attend(x, log_position)
        else:
            out = attend_in_windows(x, hw_shape, window_size, log_position, self._attend)
        return self.proj_drop(self.proj(out))

    def attention_maps(self, x: Tensor, hw_shape: tuple[int, int], log_position: Tensor | None = None,
                       window_size: tuple[int, int] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Attend with the maps written out, for analysis, up to the output projection.

        Args:
            x (Tensor): Tokens ``(B, N, C)``.
            hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
            log_position (Tensor, optional): log Φp of the grid ``(nH, N, N)``, or of the window.
            window_size (tuple[int, int], optional): Window (h, w) in tokens; None attends globally.

        Returns:
            tuple[Tensor, dict]: What the heads give, ``(B, nH, N, d)``, and the maps Φc, Φp, Φa of
            :func:`pervit_mm.ops.plain_attention`, over the whole grid, beside ``query``, ``key`` and ``value``
            ``(B, nH, N, d)``. With windows Φp and Φa are 0 between tokens of different windows. Memory grows with N
            squared in both cases.
        """
        if hw_shape[0] * hw_shape[1] != x.shape[1]:
            raise UserError(f'hw_shape must be the grid (H, W) of the {x.shape[1]} tokens, got {tuple(hw_shape)}')
        if window_size is not None:
            log_position = spread_windows(log_position, hw_shape, window_size, x.device)
        q, k, v = self.heads(x)
        out, maps = plain_attention(q, k, v, log_position)
        return out, dict(maps, query=q, key=k, value=v)

    def forward_with_maps(self, x: Tensor, hw_shape: tuple[int, int], log_position: Tensor | None = None,
                          window_size: tuple[int, int] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Output ``(B, N, C)`` of :meth:`forward`, and Φc, Φp and Φa of :meth:`attention_maps`, with its arguments."""
        out, maps = self.attention_maps(x, hw_shape, log_position, window_size)
        shown = {name: maps[name] for name in ('content', 'position', 'attention')}
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2))), shown
