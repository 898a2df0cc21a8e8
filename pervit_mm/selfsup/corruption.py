"""Images with rectangles missing or taken from other images, for a network that restores them."""
from numbers import Real

import torch
from mmengine.registry import MODELS
from torch import Tensor

from ..utils.errors import UserError

# Rectangles that are drawn for an image before it is asked whether all images are covered enough.
_TURNS = 16


@MODELS.register_module()
class GroupCorruption:
    """Hide rectangles of every image of a batch: group masked corruption, after SiT (Atito et al. 2021).

    Rectangles are set to zero, the mean of normalized images, until they cover ``ratio`` of an image. With probability
    ``replace_prob`` an image instead gets rectangles from another image of the batch, at the same place, until these
    cover ``replace_ratio``.

    By the authors' code: the defaults (half of the image in zeros, or with even odds 30 % from another image; sides
    below 0.3 of the image's), the clean image as source, and the same place in it.

    Ours:

    - Sides are uniform from 1 pixel to ``int(max_side * side)``, and rectangles lie whole inside the image. The
      authors' are cut at its right and lower border.
    - The source is the image a random number of places away, one number for the batch, and never the image itself.
      The authors draw an image for each, which may be itself.
    - Rectangles are never aligned to patches, which the authors' option ``drop_align`` does.

    Random numbers come from torch's generator on the CPU, whose state runs save and restore.

    Args:
        ratio (float): Least share of each image that is set to zero, in (0, 1). Defaults to 0.5.
        max_side (float): Largest side of a rectangle as a share of the image's side, in (0, 1]. Defaults to 0.3.
        replace_prob (float): Probability that an image gets pixels of another, in [0, 1]. Defaults to 0.5.
        replace_ratio (float): Least share of such an image that comes from the other, in (0, 1). Defaults to 0.3.

    Raises:
        UserError: If an argument is out of range; while running, if images are no batch or too small for a rectangle.

    Examples:
        >>> import torch
        >>> from pervit_mm.selfsup.corruption import GroupCorruption
        >>> corrupted, mask = GroupCorruption()(torch.randn(8, 1, 28, 28))
        >>> corrupted.shape, mask.shape
        (torch.Size([8, 1, 28, 28]), torch.Size([8, 1, 28, 28]))
    """

    def __init__(self, ratio: float = 0.5, max_side: float = 0.3, replace_prob: float = 0.5,
                 replace_ratio: float = 0.3) -> None:
        for name, value in (('ratio', ratio), ('replace_ratio', replace_ratio)):
            if not (isinstance(value, Real) and 0 < value < 1):
                raise UserError(f'{name} of GroupCorruption must be a share above 0 and below 1, got {value!r}')
        if not (isinstance(max_side, Real) and 0 < max_side <= 1):
            raise UserError(f'max_side of GroupCorruption must be a share above 0 and at most 1, got {max_side!r}')
        if not (isinstance(replace_prob, Real) and 0 <= replace_prob <= 1):
            raise UserError(f'replace_prob of GroupCorruption must be from 0 to 1, got {replace_prob!r}')
        self.ratio, self.max_side = ratio, max_side
        self.replace_prob, self.replace_ratio = replace_prob, replace_ratio

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Corrupt a batch.

        Args:
            images (Tensor): Normalized images ``(B, C, h, w)``. They are not changed. A batch of one gets zeros alone.

        Returns:
            tuple[Tensor, Tensor]: The corrupted images ``(B, C, h, w)``, and the mask ``(B, 1, h, w)``, which is True
            for every pixel that was set to zero or replaced. Both are on the device of the images.
        """
        if images.dim() != 4:
            raise UserError(f'images for GroupCorruption must be a batch (B, C, h, w), got {tuple(images.shape)}')
        number, _, *size = images.shape
        if int(self.max_side * min(size)) < 1:
            raise UserError(f'max_side={self.max_side} of GroupCorruption is less than a pixel of images of '
                            f'{size[0]} x {size[1]}: raise max_side or take larger images')
        mask = cover(number, size, self.ratio, self.max_side, images.device)[:, None]
        source = torch.zeros_like(images)
        if number > 1 and self.replace_prob:
            chosen = (torch.rand(number) < self.replace_prob).to(images.device)[:, None, None, None]
            replaced = cover(number, size, self.replace_ratio, self.max_side, images.device)[:, None]
            mask = torch.where(chosen, replaced, mask)
            source = torch.where(chosen, images.roll(int(torch.randint(1, number, ())), 0), source)
        return torch.where(mask, source, images), mask


def cover(number: int, size: tuple[int, int], share: float, max_side: float,
          device: torch.device | str = 'cpu') -> Tensor:
    """Cover a share of each of several images with random rectangles.

    Every turn draws one rectangle for each image. Images that are covered enough take no more.

    Args:
        number (int): Images.
        size (tuple[int, int]): Their height and width in pixels.
        share (float): Share of an image that is covered at least. It stays below ``share + max_side**2``.
        max_side (float): Largest side of a rectangle as a share of the image's side.
        device (torch.device | str): Where the result is made. The draws are those of the CPU. Defaults to 'cpu'.

    Returns:
        Tensor: Boolean ``(number, h, w)``, True where covered.
    """
    covered = torch.zeros(number, *size, dtype=torch.bool, device=device)
    short = torch.ones(number, dtype=torch.bool, device=device)
    pixels = [torch.arange(side, device=device) for side in size]
    sides = torch.tensor(size)[:, None]
    longest = torch.tensor([int(max_side * side) for side in size])[:, None]
    while short.any():  # this waits for the GPU, so several turns are made in between
        # (turns, 2, number): first what concerns rows, then what concerns columns.
        length = 1 + (longest * torch.rand(_TURNS, 2, number)).long()
        start = ((sides - length + 1) * torch.rand(_TURNS, 2, number)).long()
        for first, behind in zip(start.to(device), (start + length).to(device)):
            rows, columns = ((place >= low[:, None]) & (place < high[:, None])
                             for place, low, high in zip(pixels, first, behind))
            covered |= (rows & short[:, None])[:, :, None] & columns[:, None, :]
            short = covered.flatten(1).sum(1) < share * size[0] * size[1]
    return covered
