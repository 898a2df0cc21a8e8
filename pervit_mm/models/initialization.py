"""Peripheral initialization: early blocks start local, late blocks global."""
from collections.abc import Sequence

import torch
import torch.nn as nn
from mmengine.model import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS

from ..utils.errors import UserError
from .pervit import PerViT
from .position import PositionInit

SCHEMES = ('peripheral', 'local', 'global', 'trunc_normal')


def init_schedule(num_layers: int, size: tuple[float, float], strength: tuple[float, float],
                  scheme: str = 'peripheral') -> list[tuple[float, float]]:
    """Locality size and strength of each block (paper: peripheral initialization).

    Args:
        num_layers (int): Number of blocks.
        size (tuple[float, float]): β of the last norm in the first and in the last block.
        strength (tuple[float, float]): γ of the last norm in the first and in the last block.
        scheme (str): 'peripheral' goes linearly from the first to the last value, 'local' gives every block
            the first, 'global' the last. 'trunc_normal' gives every norm β = 0 and γ = 1.

    Returns:
        list[tuple[float, float]]: ``(size, strength)`` of each block.

    Raises:
        UserError: If ``scheme`` is unknown.
    """
    if scheme not in SCHEMES:
        raise UserError(f'scheme of PeripheralInit must be one of {SCHEMES}, got {scheme!r}')
    if scheme == 'trunc_normal':
        size, strength = (0., 0.), (1., 1.)
    elif scheme == 'local':
        size, strength = (size[0], size[0]), (strength[0], strength[0])
    elif scheme == 'global':
        size, strength = (size[1], size[1]), (strength[1], strength[1])
    # linspace in float32, because the authors' weights were made that way. On the CPU, because under
    # torch.device('meta') there would be no values to read.
    sizes, strengths = (torch.linspace(*ends, num_layers, device='cpu').tolist() for ends in (size, strength))
    return list(zip(sizes, strengths))


def find_backbones(module: nn.Module) -> list[PerViT]:
    """Every PerViT in a model.

    Args:
        module (nn.Module): The model.

    Returns:
        list[PerViT]: At least one.

    Raises:
        UserError: If there is none.
    """
    found = [m for m in module.modules() if isinstance(m, PerViT)]
    if not found:
        raise UserError(f'{type(module).__name__} holds no PerViT; PeripheralInit and the hooks of pervit_mm '
                        "need a model with backbone=dict(type='PerViT', ...)")
    return found


@WEIGHT_INITIALIZERS.register_module()
class PeripheralInit:
    """Initialize a whole PerViT as the paper does; the backbone's default ``init_cfg``.

    - Position network: w_r = -0.02, convolution weights 0.02, biases 0, first norm 1 and 0. Last norm of block l of L:
      β from ``linspace(*size, L)``, γ from ``linspace(*strength, L)``.
    - q, k, v, attention output and FFN: truncated normal, standard deviation 0.02, bias 0.
    - Stem, CPE, shortcuts and other norms: torch's defaults, also if a recipe-wide rule wrote other values before.

    Called on a model that contains a PerViT, it hands its options to the backbone, which initializes itself later.

    Args:
        size (Sequence[float]): Locality size β of the first and the last block. Defaults to (-5, 4).
        strength (Sequence[float]): Locality strength γ of the first and the last block. Defaults to (3, 0.01).
        scheme (str): 'peripheral', 'local' (every block as the first), 'global' (every block as the last), or
            'trunc_normal' (position weights drawn with standard deviation 0.02, norms 1 and 0). Defaults to
            'peripheral'.
        symmetry_noise (float): Relative standard deviation of noise on the constant position weights. Without noise all
            hidden channels of a position network start equal and stay equal in training. Defaults to 0, as the authors
            have it.

    Raises:
        UserError: If ``scheme`` is unknown, a pair isn't a pair, or the noise is negative.

    Examples:
        >>> init_cfg = dict(type='PeripheralInit', size=(-5, 4), strength=(3, 0.01))
    """

    def __init__(self, size: Sequence[float] = (-5, 4), strength: Sequence[float] = (3, 0.01),
                 scheme: str = 'peripheral', symmetry_noise: float = 0.) -> None:
        for name, pair in (('size', size), ('strength', strength)):
            if (not isinstance(pair, (tuple, list)) or len(pair) != 2
                    or not all(isinstance(v, (int, float)) for v in pair)):
                raise UserError(f'{name} of PeripheralInit must be two numbers, for the first and the last block, '
                                f'got {pair!r}')
        init_schedule(1, size, strength, scheme)  # checks the scheme
        if not isinstance(symmetry_noise, (int, float)) or symmetry_noise < 0:
            raise UserError(f'symmetry_noise must be a number of at least 0, got {symmetry_noise!r}')
        self.size, self.strength = tuple(size), tuple(strength)
        self.scheme, self.symmetry_noise = scheme, symmetry_noise
        self.wholemodule = False  # set by mmengine's initialize()

    def __call__(self, module: nn.Module) -> None:
        """Initialize ``module``, or hand the options to the PerViT backbones in it."""
        if isinstance(module, PerViT):
            self._fill(module)
            if hasattr(module, '_params_init_info'):
                update_init_info(module, init_info=repr(self))
            return
        for backbone in find_backbones(module):
            # As everywhere in MMEngine, a rule of a submodule wins over one of the model around it.
            backbone.set_peripheral_init(
                dict(size=self.size, strength=self.strength, scheme=self.scheme, symmetry_noise=self.symmetry_noise),
                override=False)

    def _fill(self, backbone: PerViT) -> None:
        for child in backbone.modules():
            if hasattr(child, 'reset_parameters'):  # torch's defaults first
                child.reset_parameters()
        drawn = self.scheme == 'trunc_normal'
        if backbone.position_proj is not None:
            backbone.position_proj.init_position(None if drawn else -0.02, self.symmetry_noise)
        schedule = init_schedule(backbone.num_layers, self.size, self.strength, self.scheme)
        for block, (size, strength) in zip(backbone.blocks, schedule):
            if block.attn.position is not None:
                values = PositionInit(size, strength, None if drawn else 0.02, self.symmetry_noise)
                block.attn.position.init_position(values)
            content = [block.attn.qkv] if block.attn.content else [block.attn.v]
            for linear in (*content, block.attn.proj, block.ffn.fc1, block.ffn.fc2):
                nn.init.trunc_normal_(linear.weight, std=0.02)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)

    def __repr__(self) -> str:
        return (f'PeripheralInit: size={self.size}, strength={self.strength}, scheme={self.scheme}, '
                f'symmetry_noise={self.symmetry_noise}')
