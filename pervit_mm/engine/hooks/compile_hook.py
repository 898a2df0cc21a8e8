"""torch.compile for the backbone of a run."""
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ...utils.errors import UserError, UserTypeError, told
from .position_hooks import runner_backbones


@HOOKS.register_module()
class PerViTCompileHook(Hook):
    """Compile each PerViT of the model in place, for training, validation and testing.

    ``compile`` of MMEngine's configs compiles the whole training step. There data samples, losses and metrics are
    Python objects that a compiler cannot follow. The backbone has the work, and compiles without a graph break. Keys of
    checkpoints stay as they are, so runs with and without the hook load each other's.

    Compilation takes minutes. It happens in the first iteration of training and again in the first of validation, and
    once more where the size of the images or of the batch changes. A compiled backbone makes Φp anew in every batch of
    validation, because Φp is only kept between calls that are not compiled.

    Args:
        backend (str): Compiler of torch, see ``torch.compiler.list_backends()``. Defaults to 'inductor'.
        mode (str, optional): Of inductor: 'default', 'reduce-overhead', 'max-autotune' or
            'max-autotune-no-cudagraphs'. Defaults to None, which is 'default'.
        dynamic (bool, optional): Whether sizes may change without another compilation. Defaults to None: from the
            second size on they may.
        fullgraph (bool): Whether a graph break is an error. Defaults to False.
        options (dict, optional): More for the backend, in place of ``mode``. Defaults to None.

    Raises:
        TypeError: If an argument has the wrong type.
        UserError: If torch refuses the arguments; when the run starts, if the model holds no PerViT or the config
            compiles the whole training step too.

    Examples:
        >>> custom_hooks = [dict(type='PerViTCompileHook', mode='max-autotune-no-cudagraphs')]
    """

    def __init__(self, backend: str = 'inductor', mode: str | None = None, dynamic: bool | None = None,
                 fullgraph: bool = False, options: dict | None = None) -> None:
        for name, value, kinds in (('backend', backend, str), ('mode', mode, str | None),
                                   ('dynamic', dynamic, bool | None), ('fullgraph', fullgraph, bool),
                                   ('options', options, dict | None)):
            if not isinstance(value, kinds):
                raise UserTypeError(f'{name} of PerViTCompileHook must be of type {getattr(kinds, "__name__", kinds)}, '
                                    f'got {value!r}')
        self.arguments: dict[str, Any] = dict(
            backend=backend, mode=mode, dynamic=dynamic, fullgraph=fullgraph, options=options)
        # torch looks at them when it is asked to compile, and compiles at the first call.
        with told(f'PerViTCompileHook: torch.compile refuses {self.arguments}', RuntimeError):
            self._compile(nn.Identity())

    def _compile(self, module: nn.Module) -> None:
        options = self.arguments['options']
        # A copy, because torch takes some of the options out.
        module.compile(**{**self.arguments, 'options': None if options is None else dict(options)})

    def before_run(self, runner: Runner) -> None:
        """Compile, for train, val and test alike."""
        if runner.cfg.get('compile'):
            raise UserError(f'compile={runner.cfg["compile"]!r} of the config compiles the whole training step, and '
                            'PerViTCompileHook the backbone: drop one of the two')
        for backbone in runner_backbones(runner):
            self._compile(backbone)
        runner.logger.info('PerViTCompileHook: the backbone is compiled in the first iterations, which takes minutes')
