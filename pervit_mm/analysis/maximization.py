"""Images that drive one hidden unit of a feed-forward network as high as possible."""
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from mmcv.cnn.bricks.transformer import FFN
from torch import Tensor, nn
from torch.linalg import vector_norm

from ..models.layers import FeedForward
from ..utils.errors import UserError
from .capture import find_backbone

#: Least longer side of an image in a picture, space between two of them, and height of the line above, in pixels.
_TILE, _GAP, _TITLE = 112, 8, 20


def unit_activations(model: nn.Module, inputs: Tensor, block: int) -> Tensor:
    """Hidden units of the feed-forward network of one block, after its activation, on average over the tokens.

    Class tokens are left out. The mean is what the code of Ghiasi et al. 2022 takes (``loss/image_net.py``); their
    paper writes the sum. It differs only by the factor N, which does not depend on the image.

    Args:
        model (nn.Module): A classifier, detector, segmentor or bare backbone, in eval mode, with PerViT or with
            MMPretrain's VisionTransformer, DeiT, BEiT or Swin.
        inputs (Tensor): ``(B, C, h, w)``, normalized.
        block (int): Number of the block, negative ones counted from the end.

    Returns:
        Tensor: ``(B, hidden)``, with the gradient of the model.

    Raises:
        UserError: If the model has no feed-forward network of tokens, or no such block, or the block doesn't run.
    """
    backbone = find_backbone(model)
    hidden = _hidden_activations(backbone)
    if not hidden:
        raise UserError(f'model has the backbone {type(backbone).__name__}, in which no feed-forward network of tokens '
                        "was found; give PerViT, or MMPretrain's VisionTransformer, DeiT, BEiT or Swin")
    if not -len(hidden) <= block < len(hidden):
        raise UserError(f'block must be the number of one of {len(hidden)} blocks, got {block!r}')
    seen: list[Tensor] = []
    hook = hidden[block].register_forward_hook(lambda _, args, output: seen.append(output))
    try:
        backbone(inputs)
    finally:
        hook.remove()
    if not seen:
        raise UserError(f'block={block!r} does not run in this model (out_indices); give an earlier one')
    return seen[0][:, getattr(backbone, 'num_extra_tokens', 0):].mean(1)


def choose_units(hidden: int, units: list[int] | None = None, count: int = 4) -> list[int]:
    """Check the numbers of hidden units, or choose some.

    Args:
        hidden (int): Number of hidden units of the block.
        units (list[int], optional): Numbers of units. Defaults to None, which takes ``count`` at equal distances.
        count (int): How many, without ``units``. Defaults to 4.

    Returns:
        list[int]: The numbers.

    Raises:
        UserError: If there is no such unit, or fewer than ``count``.
    """
    if units is None:
        if type(count) is not int or not 1 <= count <= hidden:
            raise UserError(f'count must be from 1 to {hidden}, the hidden units of this block, got {count!r}')
        return [index * hidden // count for index in range(count)]
    for unit in units:
        if type(unit) is not int or not 0 <= unit < hidden:
            raise UserError(f'units must be numbers from 0 to {hidden - 1} of hidden units of this block, got {unit!r}')
    return units


def total_variation(images: Tensor) -> Tensor:
    """How much neighboring pixels differ: a penalty that keeps images smooth.

    For each of the four directions (across, down, both diagonals) the root of the sum of squared differences, on
    average over the channels; then the sum of the four. (Ghiasi et al. 2022, code, ``loss/regularizers/image.py``.)

    Args:
        images (Tensor): ``(B, C, h, w)``.

    Returns:
        Tensor: ``(B,)``, in the unit of the pixels. 0 for one color.
    """
    differences = (images[..., :, 1:] - images[..., :, :-1], images[..., 1:, :] - images[..., :-1, :],
                   images[..., 1:, 1:] - images[..., :-1, :-1], images[..., 1:, :-1] - images[..., :-1, 1:])
    return sum(vector_norm(difference, dim=(-2, -1)).mean(-1) for difference in differences)


def maximize(activation: Callable[[Tensor], Tensor], start: Tensor, steps: int = 400, copies: int = 8,
             variation: float = 0.0005, jitter: int | None = None, seed: int = 0,
             callback: Callable[[int, float], None] | None = None) -> Tensor:
    """Change an image so that a value that depends on it rises.

    (Ghiasi et al. 2022, What do Vision Transformers Learn?, section 3, and their ``visualize.py``.) In each step,
    copies of the image are rolled by random pixels and get random colors, so that what remains doesn't hang on one
    place or brightness. Adam at 0.1 (β 0.5 and 0.99) with a cosine schedule raises the mean over the copies, less the
    total variation of the image. Then pixels are cut to [0, 1]. Three things are ours. Each copy is rolled by itself,
    not all alike. The colors vary before the normalization of the model. The noise of their code, which is a second
    change of colors, is left out.

    Args:
        activation (Callable): Pixels ``(B, C, h, w)`` before normalization, on the scale of ``start``, to one value for
            each image, ``(B,)``.
        start (Tensor): ``(C, h, w)`` in [0, 1]. The authors take uniform noise.
        steps (int): Defaults to 400.
        copies (int): Defaults to 8.
        variation (float): Weight λ of :func:`total_variation`. Defaults to 0.0005, the authors' 0.0005·v with v = 1.
        jitter (int, optional): Pixels that a copy is rolled by at most, in each direction. Defaults to None, a seventh
            of the shorter side: the authors' 32 at 224 pixels, 4 at 28.
        seed (int): Seed of jitter and colors. Defaults to 0.
        callback (Callable, optional): Called after each step with its number, from 1, and the mean value of the copies
            before it. Defaults to None.

    Returns:
        Tensor: ``(C, h, w)`` in [0, 1].

    Raises:
        UserError: If ``steps`` or ``copies`` is below 1, or ``start`` is no image in [0, 1].

    Examples:
        >>> def activation(pixels):
        ...     return unit_activations(subject.model, subject.normalize(255 * pixels), block)[:, unit]
        >>> image = maximize(activation, torch.rand(3, 224, 224))
    """
    for name, value in dict(steps=steps, copies=copies).items():
        if type(value) is not int or value < 1:
            raise UserError(f'{name} must be an integer of at least 1, got {value!r}')
    if start.dim() != 3 or start.min() < 0 or start.max() > 1:
        raise UserError('start must be an image (C, h, w) with values from 0 to 1, got the shape '
                        f'{tuple(start.shape)} from {start.min():g} to {start.max():g}')
    jitter = min(start.shape[1:]) // 7 if jitter is None else jitter
    generator = torch.Generator().manual_seed(seed)
    image = start.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=0.1, betas=(0.5, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(1, steps + 1):
        with torch.enable_grad():
            value = activation(_vary(image, copies, jitter, generator)).mean()
            loss = variation * total_variation(image[None])[0] - value
            image.grad, = torch.autograd.grad(loss, image)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            image.clamp_(0, 1)
        if callback is not None:
            callback(step, value.item())
    return image.detach()


def draw_units(units: Sequence[int], images: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Draw one row for each unit: its maximized image, then the images of a set that activate it most.

    Args:
        units (Sequence[int]): Number of each unit.
        images (np.ndarray): RGB ``(units, 1 + k, h, w, 3)`` uint8, the maximized image first.
        values (np.ndarray): ``(units, 1 + k)``, activation of the unit by each image. It is written above the image.

    Returns:
        np.ndarray: RGB picture ``(height, width, 3)``, uint8.
    """
    scale = max(1, _TILE // max(images.shape[2:4]))
    images = images.repeat(scale, 2).repeat(scale, 3)
    rows, columns, height, width = images.shape[:4]
    line = _TITLE + height + _GAP
    picture = np.full((rows * line, columns * (width + _GAP) + 2 * _GAP, 3), 255, np.uint8)
    for row in range(rows):
        top = row * line + _TITLE
        for column in range(columns):
            left = _GAP + column * (width + _GAP) + (_GAP if column else 0)  # the maximized image stands apart
            picture[top:top + height, left:left + width] = images[row, column]
            text = f'{values[row, column]:.2f}' if column else f'unit {units[row]}: {values[row, column]:.2f}'
            cv2.putText(picture, text, (left, top - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


def _vary(image: Tensor, copies: int, jitter: int, generator: torch.Generator) -> Tensor:
    """Copies ``(copies, C, h, w)`` of an image, rolled, and with another mean and contrast in each channel."""
    shifts = torch.randint(-jitter, jitter + 1, (copies, 2), generator=generator).tolist()
    rolled = torch.stack([image.roll(shift, dims=(1, 2)) for shift in shifts])
    # Both are uniform in [-1, 1], the second one as a logarithm (augmentation/pre.py, ColorJitter).
    mean, scale = (2 * torch.rand(2, copies, image.shape[0], 1, 1, generator=generator) - 1).to(image)
    return (rolled - mean) / scale.exp()


def _hidden_activations(backbone: nn.Module) -> list[nn.Module]:
    """The module that gives the hidden units, for each block of tokens, in the order of the blocks."""
    found = []
    for module in backbone.modules():
        if isinstance(module, FeedForward):
            found.append(module.act)
        elif isinstance(module, FFN):
            found.append(module.layers[0][1])  # Linear, activation, Dropout
    return found
