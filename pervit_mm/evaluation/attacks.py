"""Adversarial examples by FGSM and PGD, with captum."""
import warnings
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import UserError

#: Steps of PGD if nothing else is asked for.
STEPS = 10


def import_captum() -> ModuleType:
    """captum's attacks, imported here because they are an extra and take a while to load, or UserError."""
    try:
        import captum.robust
    except ImportError as error:
        raise UserError(f'attacks need captum, which cannot be imported ({error}): pip install captum') from error
    return captum.robust


def _check_epsilon(epsilon: float) -> None:
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 0 <= epsilon <= 255:
        raise UserError(f'epsilon must be in pixel units from 0 to 255, got {epsilon!r}; what papers call 8/255 is 8')


def _perturb(attack: Any, images: Tensor, **arguments: Any) -> Tensor:
    """Run an attack of captum with gradients, also within ``torch.no_grad``."""
    with torch.enable_grad(), warnings.catch_warnings():
        # captum switches the gradients of its input on and off by itself, and warns of it at every step.
        warnings.filterwarnings('ignore', 'Input Tensor 0 did not already require gradients')
        return attack.perturb(images.clone(), **arguments).detach()


def fgsm(predict: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """One step of ``epsilon`` along the sign of the loss's gradient (Goodfellow et al. 2015, section 4).

    Args:
        predict (Callable): Pixels ``(B, C, h, w)`` in [0, 255] to logits ``(B, classes)``, with gradients. It
            normalizes, so ``epsilon`` is in pixels whatever the normalization.
        images (Tensor): Pixels ``(B, C, h, w)`` in [0, 255].
        labels (Tensor): Classes ``(B,)``, which the attack leads away from.
        epsilon (float): Largest change of a pixel, in units of [0, 255].

    Returns:
        Tensor: ``(B, C, h, w)`` in [0, 255].

    Raises:
        UserError: If captum isn't installed, or ``epsilon`` is not from 0 to 255.
    """
    _check_epsilon(epsilon)
    attack = import_captum().FGSM(predict, partial(F.cross_entropy, reduction='none'), lower_bound=0, upper_bound=255)
    # captum takes gradients below 1e-6 for zero. A confident model has such gradients, and would seem robust.
    attack.zero_thresh = 0
    return _perturb(attack, images, epsilon=epsilon, target=labels)


def pgd(predict: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, epsilon: float, steps: int = STEPS,
        seed: int = 0) -> Tensor:
    """Repeated steps within a cube of ``epsilon`` around the image, from a random point (Madry et al. 2018, 2.1).

    The length of a step is 2.5 * epsilon / steps, as in the authors' experiments.

    Args:
        predict (Callable): Pixels in [0, 255] to logits, see :func:`fgsm`.
        images (Tensor): Pixels ``(B, C, h, w)`` in [0, 255].
        labels (Tensor): Classes ``(B,)``.
        epsilon (float): Largest change of a pixel, in units of [0, 255].
        steps (int): Number of steps. Defaults to 10.
        seed (int): Of the first point. PyTorch's own generator is left as it was. Defaults to 0.

    Returns:
        Tensor: ``(B, C, h, w)`` in [0, 255].

    Raises:
        UserError: If captum isn't installed, or ``epsilon`` is not from 0 to 255, or ``steps`` is below 1.
    """
    _check_epsilon(epsilon)
    if type(steps) is not int or steps < 1:
        raise UserError(f'steps must be a whole number of at least 1, got {steps!r}')
    attack = import_captum().PGD(predict, partial(F.cross_entropy, reduction='none'), lower_bound=0, upper_bound=255)
    attack.fgsm.zero_thresh = 0  # as above
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        torch.manual_seed(seed)
        return _perturb(attack, images, radius=epsilon, step_size=2.5 * epsilon / steps, step_num=steps, target=labels,
                        random_start=True)
