"""Attention as content times position: the fast path and the plain one.

With Φc = exp(q·kᵀ/√d) and Φp in (0, 1), normalizing the rows of Φc ⊙ Φp equals softmax(q·kᵀ/√d + log Φp). So log Φp is
what kernels call an additive mask, and any kernel that takes one computes the paper's multi-head peripheral attention.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .derivatives import differentiable_gradients, is_transformed

#: Bytes of attention scores that backward of :func:`trainable_mask_attention` works on at a time. Training in half
#: precision on the CPU also uses that operator without a trained log Φp, if the scores of one image fit into this size.
CHUNK_BYTES = 2 * 2**20

#: Whether the backward of CUDA's kernel reads memory that isn't its own if only the mask needs a gradient (pytorch pull
#: request 188302).
MASK_ALONE_FAILS = torch.__version__ < (2, 12)


def pad_head_width(q: Tensor, k: Tensor, v: Tensor, multiple: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Pad the head width with zeros up to a multiple, which doesn't change what attention computes.

    CUDA's kernel for masked attention needs head widths that are multiples of 8 in half precision and of 4 in float32.
    Most of PerViT's are not. Zeros add nothing to q·kᵀ. The caller cuts off the extra columns of the output.

    Args:
        q, k, v (Tensor): ``(B, nH, N, d)``.
        multiple (int): Defaults to 8.

    Returns:
        tuple[Tensor, Tensor, Tensor]: The same with d rounded up.
    """
    extra = -q.shape[-1] % multiple
    if not extra:
        return q, k, v
    return F.pad(q, (0, extra)), F.pad(k, (0, extra)), F.pad(v, (0, extra))


@torch.library.custom_op('pervit_mm::trainable_mask_attention', mutates_args=())
def trainable_mask_attention(q: Tensor, k: Tensor, v: Tensor, log_position: Tensor) -> Tensor:
    """Attention whose log Φp has a gradient, for the CPU.

    On the CPU torch's fused kernel takes an additive mask only if the mask needs no gradient. Otherwise torch falls
    back to a path that saves scores and weights of all heads of the batch. This operator runs the fused kernel in
    forward and saves only inputs and output. Backward recomputes the scores of a few images (or windows) at a time, so
    that they stay in the processor's cache. In half precision the operator also serves frozen and missing Φp on small
    maps, see :func:`peripheral_attention`. It is differentiable any number of times.

    Args:
        q, k, v (Tensor): ``(B, nH, N, d)``. There may be fewer queries than keys.
        log_position (Tensor): log Φp ``(nH, N, N)``, queries by keys, of the same dtype.

    Returns:
        Tensor: ``(B, N, nH, d)`` contiguous, ready for the output projection.
    """
    # The fused kernel refuses a mask that requires a gradient, even if no gradient is computed here.
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=log_position.detach()[None])
    return out.transpose(1, 2).contiguous()


@trainable_mask_attention.register_fake
def _(q, k, v, log_position):
    b, heads, n, d = q.shape
    return q.new_empty(b, n, heads, d)


@torch.library.custom_op('pervit_mm::trainable_mask_attention_backward', mutates_args=())
def trainable_mask_attention_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, log_position: Tensor,
                                      out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and log Φp; that of log Φp is summed over the batch."""
    scale = q.shape[-1]**-0.5
    q = q * scale
    # The gradient of a score is weight * (d weight - sum of weight * d weight). That sum equals grad . out.
    delta = (grad * out).sum(-1).transpose(1, 2)[..., None]
    dq, dk, dv = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k, v))
    # In bfloat16 a sum over some hundred chunks would stand still.
    wide = torch.promote_types(log_position.dtype, torch.float32)
    dlog_position = torch.zeros_like(log_position, dtype=wide)
    each = max(1, CHUNK_BYTES // (log_position.numel() * log_position.element_size()))
    for start in range(0, q.shape[0], each):
        b = slice(start, start + each)
        dout = grad[b].transpose(1, 2)
        weights = (q[b] @ k[b].transpose(-2, -1)).add_(log_position).softmax(-1)
        dv[b] = weights.transpose(-2, -1) @ dout
        dscores = (dout @ v[b].transpose(-2, -1)).sub_(delta[b]).mul_(weights)
        dlog_position += dscores.sum(0, dtype=wide)
        dq[b] = dscores @ k[b]
        dk[b] = dscores.transpose(-2, -1) @ q[b]
    return dq.mul_(scale), dk, dv, dlog_position.to(log_position.dtype)


@trainable_mask_attention_backward.register_fake
def _(grad, q, k, v, log_position, out):
    contiguous = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k, v))
    return *contiguous, torch.empty_like(log_position)


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs, output)


def _backward(ctx, grad):
    if torch.is_grad_enabled():  # create_graph=True: the result will be differentiated again
        *inputs, _ = ctx.saved_tensors
        return differentiable_gradients(lambda *t: plain_attention(*t)[0].transpose(1, 2), inputs, grad)
    return trainable_mask_attention_backward(grad, *ctx.saved_tensors)


trainable_mask_attention.register_autograd(_backward, setup_context=_keep)


def peripheral_attention(q: Tensor, k: Tensor, v: Tensor, log_position: Tensor | None) -> Tensor:
    """softmax(q·kᵀ/√d + log Φp)·v by torch's fused kernels.

    These kernels have a first derivative only. Under a transform of ``torch.func`` and in forward mode the attention is
    written out instead. For other second derivatives wrap the call in
    ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.

    Args:
        q, k, v (Tensor): ``(B, nH, N, d)``. There may be fewer queries than keys.
        log_position (Tensor, optional): log Φp, ``(nH, N, N)``, queries by keys. None stands for Φp = 1. Also
            ``(B, nH, N, N)``, another one for each image or window.

    Returns:
        Tensor: ``(B, nH, N, d)``.
    """
    (_, heads, n, d), keys = q.shape, k.shape[2]
    half = q.dtype in (torch.float16, torch.bfloat16)
    if is_transformed():
        return plain_attention(q, k, v, log_position)[0]
    trained = torch.is_grad_enabled() and log_position is not None and log_position.requires_grad
    given = log_position
    if log_position is not None:
        log_position = log_position.to(q.dtype)
    # A trace is one graph for both modes, so it has torch's own attention.
    if q.device.type == 'cpu' and torch.is_grad_enabled() and not torch.jit.is_tracing():
        # In half precision, backward of torch's kernel is slow on few tokens, with a frozen mask and without a mask
        # alike. In float32 it is not slow.
        slow = (half and q.requires_grad and not torch.compiler.is_compiling()
                and heads * n * keys * q.element_size() <= CHUNK_BYTES)
        if (trained or slow) and given is not None and given.dim() == 4:
            # The gradient of such a log Φp is as large as the scores anyway, and few tokens are left where images have
            # masks of their own. Then keeping the weights is faster than computing them again.
            return (content_scores(q, k) + given).softmax(dim=-1).to(v.dtype) @ v
        if trained or slow:
            log_position = q.new_zeros(heads, n, keys) if log_position is None else log_position
            return trainable_mask_attention(q, k, v, log_position).transpose(1, 2)
    if q.is_cuda:
        if MASK_ALONE_FAILS and trained and not any(t.requires_grad for t in (q, k, v)):
            return plain_attention(q, k, v, log_position)[0]
        q, k, v = pad_head_width(q, k, v, 8 if half else 4)
    mask = log_position[None] if log_position is not None and log_position.dim() == 3 else log_position
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=d**-0.5)[..., :d]


def content_scores(q: Tensor, k: Tensor) -> Tensor:
    """q·kᵀ/√d of ``(B, nH, N, d)``, queries by keys, in float32 or wider."""
    return ((q * q.shape[-1]**-0.5) @ k.transpose(-2, -1)).to(torch.promote_types(q.dtype, torch.float32))


def attend_by_position(v: Tensor, log_position: Tensor) -> Tensor:
    """normalize_rows(Φp)·v: attention without content.

    Args:
        v (Tensor): ``(B, nH, N, d)``.
        log_position (Tensor): log Φp, ``(nH, N, N)`` or ``(B, nH, N, N)``.

    Returns:
        Tensor: ``(B, nH, N, d)``.
    """
    wide = torch.promote_types(v.dtype, torch.float32)
    return log_position.to(wide).softmax(dim=-1).to(v.dtype) @ v


def plain_attention(q: Tensor | None, k: Tensor | None, v: Tensor,
                    log_position: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    """The same attention as :func:`peripheral_attention`, written out step by step, with its maps, for analysis.

    Args:
        q, k (Tensor, optional): ``(B, nH, N, d)``, or both None for attention by position alone.
        v (Tensor): ``(B, nH, N, d)``.
        log_position (Tensor, optional): log Φp, ``(nH, N, N)`` or ``(B, nH, N, N)``. None stands for Φp = 1.

    Returns:
        tuple[Tensor, dict]: The output ``(B, nH, N, d)``, and maps in float32 or wider: ``content`` Φc
        ``(B, nH, N, N)``, ``position`` Φp of log Φp's shape and ``attention`` Φa ``(B, nH, N, N)``, whose rows sum to
        one. Φc is exp(s - max s), relative to the largest score s of its row: exp(s) may overflow, and the scale
        cancels in Φa. ``scores`` s = q·k/√d and ``log_position`` are what Φc and Φp are the exponentials of.
    """
    b, heads, n, _ = v.shape
    wide = torch.promote_types(v.dtype, torch.float32)
    if q is None or k is None:
        scores = v.new_zeros(b, heads, n, n, dtype=wide)
    else:
        scores = content_scores(q, k)
    if log_position is None:
        log_position = scores.new_zeros(1, *scores.shape[2:])
    log_position = log_position.to(wide).expand(*log_position.shape[:-3], heads, *scores.shape[2:])
    attention = (scores + log_position).softmax(dim=-1)
    maps = dict(
        content=(scores - scores.amax(dim=-1, keepdim=True)).exp(),
        position=log_position.exp(),
        attention=attention,
        scores=scores,
        log_position=log_position)
    return attention.to(v.dtype) @ v, maps
