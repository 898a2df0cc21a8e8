"""How much attention each token receives in the last block, which stands in for that of a class token."""
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor

from ..analysis.capture import run_uncompiled
from ..models import PerViT


@contextmanager
def received_attention(backbone: PerViT, relative: bool = False) -> Iterator[list[Tensor]]:
    """Context in which each forward pass of a backbone tells what its tokens receive. Meanwhile it runs uncompiled.

    For each head, the mean of a column of the last Φa over queries is the weight of that token's value in the mean
    output. Here it is averaged over heads.

    Args:
        backbone (PerViT): Without windows, the last block as output.
        relative (bool): Whether it is divided by what Φp alone, with its rows normed, would give each token. Φp is the
            same for all images. Defaults to False.

    Yields:
        list[Tensor]: Attention ``(B, N)`` of each forward pass so far.
    """
    seen: list[Tensor] = []

    def keep(attn, args, kwargs, output) -> None:
        maps = attn.attention_maps(*args, **kwargs)[1]
        received = maps['attention'].mean((1, 2))
        if relative:
            received = received / maps['log_position'].softmax(-1).mean((0, 1))
        seen.append(received)

    with ExitStack() as undo:
        run_uncompiled(backbone, undo)
        undo.callback(backbone.blocks[-1].attn.register_forward_hook(keep, with_kwargs=True).remove)
        yield seen
