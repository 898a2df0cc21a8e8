"""Accuracy under changes of the images, over seeds: what tools/analysis_tools/robustness.py measures."""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..analysis.frequency import high_pass, low_pass
from ..utils.errors import UserError
from .attacks import STEPS, fgsm, import_captum, pgd
from .corruptions import CORRUPTIONS, RANDOM_CORRUPTIONS, corrupt
from .occlusion import ORDERS, check_drop, drop_patches, shuffle_patches

#: Pixels ``(B, C, h, w)`` in [0, 255] to logits ``(B, classes)``.
Predict = Callable[[Tensor], Tensor]

_DROPS = {f'drop_{order}'.replace('-', '_'): order for order in ORDERS}
_FILTERS = dict(low_pass=low_pass, high_pass=high_pass)
#: Patches a side that are dropped at random, where no saliency gives a grid: the first that divides the image.
DEFAULT_GRIDS = (7, 8, 5, 3, 2, 1)
#: What :func:`make_conditions` knows, in the order of the tables.
CONDITIONS = (*_DROPS, 'shuffle', *_FILTERS, *CORRUPTIONS)
#: What :func:`make_attacks` knows.
ATTACKS = ('fgsm', 'pgd')
#: Largest change of a pixel in attacks, in units of [0, 255]: 1/255 to 8/255, as papers write it.
EPSILONS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Condition:
    """One way to change images, at several levels.

    Attributes:
        name (str): Name in tables.
        levels (tuple): How much is changed.
        unit (str): What a level counts.
        random (bool): Whether a seed makes a difference. Otherwise one run says all.
        perturb (Callable): Takes pixels of a batch, the slice of the images that they are, a level and a generator;
            returns the changed pixels and, for patch drop, the share of non-zero pixels removed from each image.
    """
    name: str
    levels: tuple[float, ...]
    unit: str
    random: bool
    perturb: Callable[[Tensor, slice, Any, torch.Generator], tuple[Tensor, Tensor | None]]


#: The images as they are.
CLEAN = Condition('clean', (0, ), 'no change', False, lambda pixels, index, level, generator: (pixels, None))


def make_conditions(names: Sequence[str], size: tuple[int, int], saliency: Tensor | None = None, fill: str = 'zero'
                    ) -> list[Condition]:
    """Conditions by name, for images of one size.

    Args:
        names (Sequence[str]): Some of :data:`CONDITIONS`.
        size (tuple[int, int]): Height and width of the images in pixels.
        saliency (Tensor, optional): ``(B, H, W)`` for all images, needed for ``drop_salient`` and ``drop_non_salient``;
            H x W is the grid of patches. One source serves all models that are compared. Defaults to None, with which
            ``drop_random`` takes one of :data:`DEFAULT_GRIDS`.
        fill (str): What dropped patches become, see :func:`drop_patches`. Defaults to 'zero'.

    Returns:
        list[Condition]: ``drop_*`` with 1/10 to 9/10 of the patches; ``shuffle`` with grids of 2 to 16 tiles a side
        that divide the image; the filters with 1/7 to 7/7 of the cycles that the shorter side has; the corruptions with
        strengths 1 to 5.

    Raises:
        UserError: If there is no such name or fill, the saliency is missing, or no grid divides the image.
    """
    check_drop(0, 'random', fill)
    return [_make_condition(name, size, saliency, fill) for name in names]


def _make_condition(name: str, size: tuple[int, int], saliency: Tensor | None, fill: str) -> Condition:
    if name in _DROPS:
        if saliency is None:
            if _DROPS[name] != 'random':
                raise UserError(f'saliency must be given for {name}: its grid of tokens is the grid of patches')
            side = next(side for side in DEFAULT_GRIDS if size[0] % side == size[1] % side == 0)
            saliency = torch.zeros(1, side, side)  # its grid alone counts

        def drop(pixels, index, level, generator, order=_DROPS[name]):
            given = None if order == 'random' else saliency[index]
            return drop_patches(pixels, level, tuple(saliency.shape[1:]), order, fill, given, generator)

        levels = tuple(i / 10 for i in range(1, 10))
        chance = fill == 'noise' or _DROPS[name] == 'random'
        return Condition(name, levels, f'share of patches, filled with {fill}', chance, drop)
    if name == 'shuffle':
        grids = tuple(grid for grid in range(2, 17) if size[0] % grid == size[1] % grid == 0)
        if not grids:
            raise UserError(f'conditions: no grid of 2 to 16 tiles a side divides {size[0]} x {size[1]} pixels; leave '
                            'out shuffle')
        return Condition(name, grids, 'tiles a side', True, lambda pixels, index, level, generator: (
            shuffle_patches(pixels, level, generator), None))
    if name in _FILTERS:
        radii = tuple(min(size) / 2 * i / 7 for i in range(1, 8))
        return Condition(name, radii, 'cycles per image', False, lambda pixels, index, level, generator: (
            _FILTERS[name](pixels, level), None))
    if name in CORRUPTIONS:
        return Condition(name, tuple(range(1, 6)), 'strength', name in RANDOM_CORRUPTIONS,
                         lambda pixels, index, level, generator: (corrupt(pixels, name, level, generator), None))
    raise UserError(f'conditions must be among {", ".join(CONDITIONS)}, got {name!r}')


def make_attacks(names: Sequence[str], predict: Predict, labels: Tensor) -> list[Condition]:
    """Attacks on one model as conditions, with :data:`EPSILONS`.

    Args:
        names (Sequence[str]): Some of :data:`ATTACKS`.
        predict (Callable): The model that is attacked, with gradients.
        labels (Tensor): Classes ``(B,)`` of all images.

    Returns:
        list[Condition]: Levels are the largest change of a pixel, in units of [0, 255].

    Raises:
        UserError: If there is no such name, or captum isn't installed.
    """
    def attack(pixels, index, level, generator, name):
        if name == 'fgsm':
            return fgsm(predict, pixels, labels[index], level), None
        seed = int(torch.randint(2**31, (), generator=generator))
        return pgd(predict, pixels, labels[index], level, seed=seed), None

    units = dict(fgsm='largest change of a pixel of 255', pgd=f'largest change of a pixel of 255, {STEPS} steps')
    wrong = [name for name in names if name not in ATTACKS]
    if wrong:
        raise UserError(f'attacks must be among {", ".join(ATTACKS)}, got {wrong[0]!r}')
    if names:
        import_captum()  # says now, not after minutes of other conditions, that it is missing
    return [Condition(name, EPSILONS, units[name], name == 'pgd', partial(attack, name=name)) for name in names]


def measure(predict: Predict, pixels: Tensor, labels: Tensor, condition: Condition, seeds: Sequence[int],
            batch_size: int = 100) -> Iterator[dict[str, Any]]:
    """Accuracy under one condition, for each level and seed.

    All levels and models draw from the same seeds: what is dropped at 1/10 is also dropped at 2/10. So differences
    between them are not differences of luck.

    Args:
        predict (Callable): Pixels ``(B, C, h, w)`` in [0, 255] to logits ``(B, classes)``; the model in eval mode.
        pixels (Tensor): ``(B, C, h, w)`` in [0, 255].
        labels (Tensor): Classes ``(B,)``, on the device of the logits.
        condition (Condition): What is done to the images.
        seeds (Sequence[int]): One run for each. A condition without chance runs once.
        batch_size (int): Images at a time. The draws depend on it. Defaults to 100.

    Yields:
        dict: ``condition``, ``level``, ``unit``, ``seed`` (None without chance), ``images``, ``correct``, ``accuracy``
        in percent, and ``removed``, the mean share of non-zero pixels removed by patch drop (else None).

    Raises:
        UserError: If there is no seed, pixels leave [0, 255], or there are not as many labels as images.
    """
    if not seeds or any(type(seed) is not int or seed < 0 for seed in seeds):
        raise UserError(f'seeds must be at least one whole number of at least 0, got {list(seeds)!r}')
    if labels is None or len(labels) != len(pixels):
        raise UserError(f'labels must be one for each of the {len(pixels)} images, got '
                        f'{None if labels is None else len(labels)}; use images with known classes')
    if not 0 <= pixels.min() <= pixels.max() <= 255:
        raise UserError(f'pixels must be in [0, 255], got {pixels.min():.3g} to {pixels.max():.3g}; give them before '
                        'they are normalized')
    for level in condition.levels:
        for seed in seeds if condition.random else [None]:
            generator = torch.Generator().manual_seed(seed or 0)
            correct, removed = 0, []
            for start in range(0, len(pixels), batch_size):
                index = slice(start, start + batch_size)
                changed, shares = condition.perturb(pixels[index], index, level, generator)
                with torch.no_grad():
                    correct += int((predict(changed).argmax(dim=1) == labels[index]).sum())
                removed += [] if shares is None else shares.tolist()
            yield dict(condition=condition.name, level=level, unit=condition.unit, seed=seed, images=len(pixels),
                       correct=correct, accuracy=100 * correct / len(pixels),
                       removed=sum(removed) / len(removed) if removed else None)
