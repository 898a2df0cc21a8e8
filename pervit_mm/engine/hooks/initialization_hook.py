"""Set where Φp starts, from the config of a run."""
from collections.abc import Sequence

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...models.init_rules import rule_name
from ...models.initialization import PeripheralInit
from ...models.position import PerViTPeripheralPosition
from .position_hooks import runner_backbones


@HOOKS.register_module()
class PeripheralInitHook(Hook):
    """Set locality size and strength of Φp for a run from the config.

    It acts in ``before_run``, ahead of the runner's ``init_weights``, by handing its options to the backbones'
    ``PeripheralInit``: so a checkpoint that is loaded or resumed afterwards, or weights by ``Pretrained``, keep their
    values. In ``before_train`` it logs the table of what each block starts from, unless values were loaded.

    Args:
        size (Sequence[float], optional): Locality size β of the first and the last block. Defaults to None, which keeps
            what the backbone's ``PeripheralInit`` has, as for all others.
        strength (Sequence[float], optional): Locality strength γ of the first and the last block.
        scheme (str, optional): See :class:`PeripheralInit`.
        symmetry_noise (float, optional): See :class:`PeripheralInit`.

    Raises:
        UserError: If an option is not what :class:`PeripheralInit` allows.

    Examples:
        >>> custom_hooks = [dict(type='PeripheralInitHook', size=(-4, 4), strength=(2, 0.01))]
    """

    def __init__(self, size: Sequence[float] | None = None, strength: Sequence[float] | None = None,
                 scheme: str | None = None, symmetry_noise: float | None = None) -> None:
        options = dict(size=size, strength=strength, scheme=scheme, symmetry_noise=symmetry_noise)
        self.options = {name: value for name, value in options.items() if value is not None}
        PeripheralInit(**self.options)  # checks them, early

    def before_run(self, runner: Runner) -> None:
        """Hand the options to the backbones, which are initialized next."""
        for backbone in runner_backbones(runner):
            if backbone.is_init:
                runner.logger.warning('PeripheralInitHook: the backbone was initialized before the run and keeps its '
                                      'values; give its init_cfg the options instead')
            else:
                backbone.set_peripheral_init(self.options)

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Log what each block starts from."""
        from ...analysis.nonlocality import position_nonlocality  # `import pervit_mm` doesn't load the analysis
        for backbone in runner_backbones(runner):
            if runner._has_loaded or any(rule_name(rule) == 'Pretrained' for rule in backbone.init_cfg):
                runner.logger.info('PeripheralInitHook: weights were loaded, and Φp keeps their values')
                continue
            lines = ['PeripheralInitHook: Φp at the start', 'block    size  strength  nonlocality']
            reach = position_nonlocality(backbone)
            for i, block in enumerate(backbone.blocks):
                size = strength = float('nan')
                position = block.attn.position
                if isinstance(position, PerViTPeripheralPosition) and position.norm2 is not None:
                    size, strength = position.norm2.bias.mean().item(), position.norm2.weight.mean().item()
                lines.append(f'{i:5d}{size:8.2f}{strength:10.3f}{reach[i].mean().item():13.4f}')
            runner.logger.info('\n'.join(lines))
