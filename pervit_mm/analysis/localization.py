"""Token localization: does a token still know the patch that it came from?"""
import torch
from torch import Tensor

from ..utils.errors import UserError
from .cka import CKAMatrix


@torch.no_grad()
def token_localization(tokens: Tensor, images: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """Unbiased CKA, over images, between the token at each place and the input patch at each place.

    Raghu et al. 2021 (Do Vision Transformers See Like Convolutional Neural Networks?, "spatial information and
    localization"). A token that keeps to
    its place has one peak there. A flat or shifted map says that it carries what others have seen. Patches of natural
    images resemble their neighbors, so a peak is broad even for the patches themselves: compare with them.

    Args:
        tokens (Tensor): Tokens after a block, ``(n, N, C)`` of n images, without class tokens; ``output`` of
            :func:`pervit_mm.analysis.capture`.
        images (Tensor): Inputs of the network, ``(n, channels, h, w)``, h and w multiples of H and W.
        hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.

    Returns:
        Tensor: ``(N, H, W)`` float64: for each token the CKA with the patch at each place. NaN where all images have
        the same patch or the same token, such as a black border, because CKA isn't defined there.

    Raises:
        UserError: If there are fewer than four images, or the shapes don't fit together.
    """
    (h, w), n = hw_shape, len(images)
    if tokens.dim() != 3 or tokens.shape[:2] != (n, h * w):
        raise UserError(f'tokens must be ({n}, {h * w}, C) for {n} images and hw_shape={tuple(hw_shape)}, got '
                        f'{tuple(tokens.shape)}: drop class tokens, and give the images that the tokens are from')
    if images.dim() != 4 or images.shape[2] % h or images.shape[3] % w:
        raise UserError(f'images must be (n, channels, h, w) with sides that are multiples of the grid {h} x {w}, got '
                        f'{tuple(images.shape)}: resize or crop them')
    # (n, channels, H, patch height, W, patch width) → (H * W, n, values of a patch)
    patches = images.unflatten(3, (w, -1)).unflatten(2, (h, -1)).permute(2, 4, 0, 1, 3, 5).flatten(3).flatten(0, 1)
    # In float64: the Gram matrices of nearly black patches are tiny.
    cka = CKAMatrix().update(tokens.double().transpose(0, 1), patches.double()).result()
    return cka.unflatten(1, (h, w))
