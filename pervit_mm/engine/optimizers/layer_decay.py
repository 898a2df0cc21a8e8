"""Layer-wise learning rate decay for every toolbox."""
from collections import defaultdict

import torch.nn as nn
from mmengine.logging import print_log
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

from ...utils.errors import UserError
from .groups import PerViTGroupedConstructor


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PerViTLayerDecayConstructor(PerViTGroupedConstructor):
    """Optimizer wrapper whose learning rate falls from the head down to the stem.

    A parameter of depth i of n gets ``lr * layer_decay_rate ** (n - 1 - i)``. Depths come from the backbone itself:
    the constructor looks for the submodules that have ``get_layer_depth(param_name, prefix)`` and knows no class
    names, so it works for every detector, segmentor and classifier, and for other backbones with that method.
    Whatever lies outside of such a backbone keeps the full rate. Each depth has two groups of parameters, with weight
    decay and without.

    Args:
        optim_wrapper_cfg (dict): Config of the optimizer wrapper, with ``optimizer``.
        paramwise_cfg (dict): MMEngine's options, and ``layer_decay_rate`` (float in (0, 1]), which has no default.

    Raises:
        UserError: If ``layer_decay_rate`` is missing or out of range, or no submodule tells depths.

    Examples:
        >>> optim_wrapper = dict(
        ...     type='OptimWrapper',
        ...     optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
        ...     constructor='PerViTLayerDecayConstructor',
        ...     paramwise_cfg=dict(layer_decay_rate=0.8, norm_decay_mult=0., bias_decay_mult=0.))
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        rate = (paramwise_cfg or {}).get('layer_decay_rate')
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise UserError('paramwise_cfg of PerViTLayerDecayConstructor needs a layer_decay_rate above 0 and at '
                            f'most 1, such as 0.8, got {rate!r}')
        self.layer_decay_rate = float(rate)
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def set_options(self, groups: list[dict], model: nn.Module) -> None:
        """Scale the rates by depth.

        Args:
            groups (list[dict]): A group of each parameter; changed in place.
            model (nn.Module): The model.
        """
        names = {id(param): name for name, param in model.named_parameters()}
        backbones = {f'{name}.' if name else '': sub for name, sub in model.named_modules()
                     if callable(getattr(sub, 'get_layer_depth', None))}
        # A classifier hands the question on to its backbone: ask the innermost.
        backbones = {p: b for p, b in backbones.items() if not any(o != p and o.startswith(p) for o in backbones)}
        if not backbones:
            raise UserError(f'{type(model).__name__} holds no submodule with get_layer_depth(param_name, prefix), '
                            'which PerViTLayerDecayConstructor asks: take PerViT or another backbone that has it')
        depths: dict[int, list[float]] = defaultdict(list)
        for group in groups:
            name = names[id(group['params'][0])]
            # Any backbone tells the depth of what lies outside of it: the last.
            prefix = next((p for p in backbones if name.startswith(p)), next(iter(backbones)))
            depth, num_depths = backbones[prefix].get_layer_depth(name, prefix)
            group['lr_scale'] = self.layer_decay_rate**(num_depths - 1 - depth)
            group['lr'] = group.get('lr', self.base_lr) * group['lr_scale']
            depths[depth].append(group['lr'])
        for depth, rates in sorted(depths.items()):
            print_log(f'layer decay: depth {depth}, {len(rates)} parameters, learning rate at most {max(rates):.3g}',
                      'current')
