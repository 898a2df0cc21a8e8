"""Images with some patches dropped, or with their patches shuffled."""
import torch
from torch import Tensor, nn

from ..analysis.capture import capture, find_backbone
from ..utils.errors import UserError

#: Which patches are dropped first.
ORDERS = ('random', 'salient', 'non-salient')
#: What dropped patches are filled with.
FILLS = ('zero', 'mean', 'noise')


def check_drop(fraction: float, order: str, fill: str) -> None:
    """Raise UserError unless the arguments of :func:`drop_patches` are among those that it takes."""
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
        raise UserError(f'fraction must be a share of the patches from 0 to 1, got {fraction!r}')
    for name, value, allowed in (('order', order, ORDERS), ('fill', fill, FILLS)):
        if value not in allowed:
            raise UserError(f'{name} must be one of {", ".join(allowed)}, got {value!r}')


def check_grid(grid: tuple[int, int], size: tuple[int, int]) -> None:
    """Raise UserError unless an image of ``size`` (h, w) in pixels divides into a grid (H, W) of equal patches."""
    if (not isinstance(grid, (tuple, list)) or len(grid) != 2 or any(type(n) is not int or n < 1 for n in grid)
            or size[0] % grid[0] or size[1] % grid[1]):
        raise UserError(f'grid must divide the image into equal patches, got {grid!r} for {size[0]} x {size[1]} '
                        'pixels; give a divisor of each side')


def drop_count(fraction: float, tokens: int) -> int:
    """Number of patches that ``fraction`` of ``tokens`` means: ⌊fraction * tokens⌋ (Naseer et al. 2021)."""
    # 0.29 * 100 is 28.999999999999996 in floating point, and 29 is meant.
    return int(fraction * tokens + 1e-9)


def drop_patches(images: Tensor, fraction: float, grid: tuple[int, int], order: str = 'random', fill: str = 'zero',
                 saliency: Tensor | None = None, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Drop a share of the patches of each image (Naseer et al. 2021, Intriguing Properties of Vision Transformers).

    The paper fills with pixel 0. Where the background *is* 0, as in Fashion-MNIST, that drops little: compare the
    fills, and read the share of non-zero pixels that was removed.

    Args:
        images (Tensor): Pixels ``(B, C, h, w)`` in [0, 255], before they are normalized.
        fraction (float): Share of the N = H * W patches that is dropped, from 0 to 1: ⌊fraction * N⌋ patches.
        grid (tuple[int, int]): Grid (H, W) of patches. It must divide the image.
        order (str): ``'random'``, other patches for each image; ``'salient'``, those of the largest saliency;
            ``'non-salient'``, those of the smallest. Defaults to 'random'.
        fill (str): What dropped pixels become: ``'zero'``; ``'mean'``, the mean of the image by channel (ours);
            ``'noise'``, uniform in [0, 255] (ours). Defaults to 'zero'.
        saliency (Tensor, optional): ``(B, H, W)``, needed unless the order is random. Among equal values the first
            patch is taken.
        generator (torch.Generator, optional): On the CPU, so that a seed means the same on each device. Defaults to
            None, PyTorch's own.

    Returns:
        tuple[Tensor, Tensor]: Images ``(B, C, h, w)``, float32 or wider; and for each image the share of its non-zero
        pixels that was in dropped patches, ``(B,)``. A pixel is non-zero if any channel is. The share is 0 for an image
        without such pixels.

    Raises:
        UserError: If an argument is none of the allowed ones, the grid doesn't divide the image, or the saliency is
            missing or of another shape.
    """
    check_drop(fraction, order, fill)
    check_grid(grid, images.shape[-2:])
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    b, n, device = len(images), grid[0] * grid[1], images.device
    if order == 'random':
        scores = torch.rand(b, n, generator=generator).to(device)
    elif saliency is None or saliency.shape != (b, *grid):
        shape = None if saliency is None else tuple(saliency.shape)
        raise UserError(f'saliency must be a map of shape {(b, *grid)} for order={order!r}, got {shape}; give one '
                        'value for each patch')
    else:
        scores = saliency.reshape(b, n).to(device) * (1 if order == 'salient' else -1)
    first = scores.argsort(dim=1, descending=True, stable=True)[:, :drop_count(fraction, n)]
    mask = torch.zeros(b, n, dtype=torch.bool, device=device).scatter_(1, first, True).reshape(b, 1, *grid)
    for axis in (-2, -1):
        mask = mask.repeat_interleave(images.shape[axis] // mask.shape[axis], axis)  # at the end (B, 1, h, w)
    if fill == 'mean':
        filling = images.mean(dim=(-2, -1), keepdim=True)
    elif fill == 'noise':
        filling = 255 * torch.rand(images.shape, generator=generator).to(images)
    else:
        filling = torch.zeros_like(images)
    nonzero = (images != 0).any(dim=1, keepdim=True)
    removed = (nonzero & mask).sum(dim=(1, 2, 3)) / nonzero.sum(dim=(1, 2, 3)).clamp_min(1)
    return torch.where(mask, filling, images), removed


def shuffle_patches(images: Tensor, grid: int, generator: torch.Generator | None = None) -> Tensor:
    """Cut each image into tiles and put them in another order (Naseer et al. 2021).

    Each image has an order of its own (ours). The authors' code gives all images of a batch the same one.

    Args:
        images (Tensor): ``(B, C, h, w)``.
        grid (int): Tiles on each side. It must divide both sides of the image. 1 changes nothing.
        generator (torch.Generator, optional): On the CPU. Defaults to None, PyTorch's own.

    Returns:
        Tensor: ``(B, C, h, w)`` of the same type, each with the tiles that it had.

    Raises:
        UserError: If the grid doesn't divide the image.
    """
    check_grid((grid, grid), images.shape[-2:])
    b, c, h, w = images.shape
    order = torch.rand(b, grid * grid, generator=generator).argsort(dim=1).to(images.device)
    tiles = images.reshape(b, c, grid, h // grid, grid, w // grid).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    tiles = tiles[torch.arange(b, device=images.device)[:, None], order]  # (B, grid², C, h / grid, w / grid)
    return tiles.unflatten(1, (grid, grid)).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)


@torch.no_grad()
def received_attention(model: nn.Module, inputs: Tensor, batch_size: int = 100) -> Tensor:
    """Saliency by attention: what each token receives in the last block, mean over queries and heads (ours).

    PerViT has no class token, whose attention others take.

    Args:
        model (nn.Module): In eval mode, see :func:`pervit_mm.analysis.capture`.
        inputs (Tensor): Normalized images ``(B, C, h, w)``.
        batch_size (int): Images at a time. Defaults to 100.

    Returns:
        Tensor: ``(B, H, W)``, sum 1 for each image.

    Raises:
        UserError: If the model has no tokens with attention.
    """
    backbone, maps = find_backbone(model), []
    for batch in inputs.split(batch_size):
        try:
            with capture(model, each=lambda block: (block.hw_shape, block.attention.mean(dim=(1, 2)))) as record:
                backbone(batch)
        except UserError as error:
            raise UserError(f'saliency needs attention between tokens, which cannot be recorded of '
                            f'{type(backbone).__name__}: name a model with tokens by --saliency-from, or leave out the '
                            'conditions that drop patches') from error
        (h, w), received = record.blocks[-1]
        maps.append(received.reshape(-1, h, w))
    return torch.cat(maps)
