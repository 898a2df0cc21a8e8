"""Few parameter groups, without which an optimizer has no fast step."""
from collections import Counter
from collections.abc import Iterable

import torch
import torch.nn as nn
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS

from ...utils.errors import UserError

#: Optimizers of torch that have a fused step on CUDA.
FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PerViTGroupedConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor, with one group for all parameters that have the same options.

    With a ``paramwise_cfg``, MMEngine makes a group of each parameter. An optimizer steps group by group, so on a GPU
    it starts some kernels for each parameter, where it could start some for all. Weights become the same bit by bit,
    unless ``clip_grad`` is set: the norm of all gradients is then summed in another order.

    Where all parameters are on CUDA, Adam, AdamW and SGD get ``fused=True``: one kernel for each few dozen tensors, and
    no wait for the loss scaler. ``fused`` or ``foreach`` of the config has precedence.

    A state of an optimizer with a group for each parameter can be resumed, and so can one from another device.

    Args:
        optim_wrapper_cfg (dict): Config of the optimizer wrapper, with ``optimizer``.
        paramwise_cfg (dict, optional): MMEngine's options for parameters. Defaults to None, the same for all.

    Raises:
        UserError: When it is called, if modules share a tensor and ``paramwise_cfg.bypass_duplicate`` is not set.

    Examples:
        >>> optim_wrapper = dict(
        ...     type='OptimWrapper',
        ...     optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
        ...     constructor='PerViTGroupedConstructor',
        ...     paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.))
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer and its wrapper.

        Args:
            model (nn.Module): The model to train, or its wrapper.

        Returns:
            OptimWrapper: The wrapper.
        """
        if self._can_fuse(model):
            self.optimizer_cfg = dict(self.optimizer_cfg, fused=True)
        wrapper = super().__call__(model)
        wrapper.optimizer.register_load_state_dict_pre_hook(fit_state)
        return wrapper

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs) -> None:
        """Add the parameters of ``module``, by MMEngine's rules; those of the whole model then share groups.

        Args:
            params (list[dict]): Parameter groups; changed in place.
            module (nn.Module): The module to add.
            prefix (str): Its name in the model, empty for the model itself. Defaults to ''.
            **kwargs: As MMEngine's own constructor passes them on its way down.
        """
        super().add_params(params, module, prefix, **kwargs)
        if not prefix:  # MMEngine's method calls itself for the parts of the model
            self._check_unshared(params, module)
            self.set_options(params, module)
            defaults = {key: self.optimizer_cfg[key] for key in ('lr', 'weight_decay') if key in self.optimizer_cfg}
            params[:] = merge_groups([{**defaults, **group} for group in params])

    def set_options(self, groups: list[dict], model: nn.Module) -> None:
        """Change options of the parameters; for classes derived from this one.

        Args:
            groups (list[dict]): A group of each parameter; changed in place.
            model (nn.Module): The model.
        """

    def _check_unshared(self, groups: list[dict], model: nn.Module) -> None:
        """Refuse a tensor that several modules share: it would be stepped once for each of them."""
        counts = Counter(id(param) for group in groups for param in group['params'])
        twice = [name for name, param in model.named_parameters(remove_duplicate=False) if counts[id(param)] > 1]
        if twice:
            raise UserError(f'paramwise_cfg: {", ".join(twice[:4])} share a tensor, which would be stepped once for '
                            'each of these names: set paramwise_cfg.bypass_duplicate=True')

    def _can_fuse(self, model: nn.Module) -> bool:
        if {'fused', 'foreach'} & self.optimizer_cfg.keys():
            return False
        kind = self.optimizer_cfg['type']
        if isinstance(kind, str):
            with OPTIMIZERS.switch_scope_and_registry(None) as registry:
                kind = registry.get(kind)
        trained = [param for param in model.parameters() if param.requires_grad]
        return kind in FUSED and all(param.is_cuda and param.is_floating_point() for param in trained)


def merge_groups(groups: Iterable[dict]) -> list[dict]:
    """Merge parameter groups that have equal options.

    Args:
        groups (Iterable[dict]): Each with a list ``params``, and options.

    Returns:
        list[dict]: In the order of first appearance. The parameters of a group stay in their order.
    """
    merged: list[dict] = []
    for group in groups:
        options = {key: value for key, value in group.items() if key != 'params'}
        for other in merged:
            if {key: value for key, value in other.items() if key != 'params'} == options:
                other['params'].extend(group['params'])
                break
        else:
            merged.append({'params': list(group['params']), **options})
    return merged


def fit_state(optimizer: torch.optim.Optimizer, state: dict) -> dict:
    """Make the state of an earlier run fit an optimizer; ``load_state_dict`` calls it first.

    - A state with a group for each parameter, which MMEngine's own constructor leaves, gets the merged groups.
    - How a step is computed, fused or not, stays as the optimizer has it. The state may be from another device.

    Args:
        optimizer (Optimizer): Gets the state.
        state (dict): What its ``state_dict`` returned; not changed.

    Returns:
        dict: The state that fits. If it is of another model, ``load_state_dict`` refuses it.
    """
    groups = state['param_groups']
    if len(groups) != len(optimizer.param_groups):
        groups = merge_groups(groups)
    how = {key: optimizer.defaults[key] for key in ('fused', 'foreach') if key in optimizer.defaults}
    return {**state, 'param_groups': [{**group, **how} for group in groups]}


def fit_schedulers(schedulers: Iterable[_ParamScheduler]) -> None:
    """Make schedulers that have the state of an earlier run fit the groups of their optimizer.

    A scheduler keeps the first and the last value of each group. After :func:`fit_state` has merged groups, these are
    read from the groups again.

    Args:
        schedulers (Iterable): Of MMEngine, after loading their states and that of their optimizer.
    """
    for scheduler in schedulers:
        groups, name = scheduler.optimizer.param_groups, scheduler.param_name
        if len(getattr(scheduler, 'base_values', groups)) != len(groups):
            scheduler.base_values = [group[f'initial_{name}'] for group in groups]
            scheduler._last_value = [group[name] for group in groups]
