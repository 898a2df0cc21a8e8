"""Hooks around Φp: setting its start, logging its reach, drawing it."""
from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...analysis.nonlocality import position_nonlocality
from ...analysis.position_map import draw_position_maps
from ...models import PerViT
from ...models.position import PerViTPeripheralPosition
from ..initialization import PeripheralInit, find_backbones


def _backbones(runner: Runner) -> list[PerViT]:
    """Every PerViT of a runner's model, DDP or not."""
    model = runner.model
    return find_backbones(model.module if is_model_wrapper(model) else model)


def _is_pretrained(backbone: PerViT) -> bool:
    kinds = [rule.get('type') for rule in backbone.init_cfg]
    return any(getattr(kind, '__name__', kind) in ('Pretrained', 'PretrainedInit') for kind in kinds)


@HOOKS.register_module()
class PeripheralInitHook(Hook):
    """Set locality size and strength of Φp for a run from the config.

    It acts in ``before_run``, ahead of the runner's ``init_weights``, by handing its options to the backbones'
    ``PeripheralInit``: so a checkpoint that is loaded or resumed afterwards, or weights by ``Pretrained``, keep their
    values. In ``before_train`` it logs the table of what each block starts from.

    Args:
        size (Sequence[float]): Locality size β of the first and the last block. Defaults to (-5, 4).
        strength (Sequence[float]): Locality strength γ of the first and the last block. Defaults to (3, 0.01).
        scheme (str): See :class:`PeripheralInit`. Defaults to 'peripheral'.
        symmetry_noise (float): See :class:`PeripheralInit`. Defaults to 0.

    Examples:
        >>> custom_hooks = [dict(type='PeripheralInitHook', size=(-4, 4), strength=(2, 0.01))]
    """

    def __init__(self, size: Sequence[float] = (-5, 4), strength: Sequence[float] = (3, 0.01),
                 scheme: str = 'peripheral', symmetry_noise: float = 0.) -> None:
        self.options = dict(size=size, strength=strength, scheme=scheme, symmetry_noise=symmetry_noise)
        PeripheralInit(**self.options)  # checks them, early
        self._applied = False

    def before_run(self, runner: Runner) -> None:
        """Hand the options to backbones that will be initialized in this run."""
        if runner._resume or runner._load_from is not None:
            runner.logger.info('PeripheralInitHook: this run loads or resumes a checkpoint and keeps its values')
            return
        for backbone in _backbones(runner):
            if backbone.is_init:
                runner.logger.warning('PeripheralInitHook: the backbone was initialized before the run and keeps its '
                                      'values; give its init_cfg the options instead')
            elif _is_pretrained(backbone):
                runner.logger.info('PeripheralInitHook: the backbone is Pretrained and keeps those values')
            else:
                backbone.set_peripheral_init(**self.options)
                self._applied = True

    def before_train(self, runner: Runner) -> None:
        """Log what each block starts from."""
        if not self._applied:
            return
        for backbone in _backbones(runner):
            lines = ['PeripheralInitHook: Φp at the start', 'block    size  strength  nonlocality']
            reach = position_nonlocality(backbone)
            for i, block in enumerate(backbone.blocks):
                size = strength = float('nan')
                position = block.attn.position
                if isinstance(position, PerViTPeripheralPosition) and position.norm2 is not None:
                    size, strength = position.norm2.bias.mean().item(), position.norm2.weight.mean().item()
                lines.append(f'{i:5d}{size:8.2f}{strength:10.3f}{reach[i].mean().item():13.4f}')
            runner.logger.info('\n'.join(lines))


@HOOKS.register_module()
class PerViTNonlocalityHook(Hook):
    """Log the nonlocality of each block's Φp as scalars ``nonlocality/block{i}``.

    Nonlocality is the mean over queries, keys and heads of distance times Φp, the paper's measure, on the pretraining
    grid. The scalars go to every backend of the runner's visualizer and, for by-epoch runs, to the log.

    Args:
        interval (int): Every so many epochs, and before the first. Defaults to 1.

    Raises:
        ValueError: If ``interval`` is not a positive integer.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 1) -> None:
        self.interval = _check_interval(self, interval)

    def _log(self, runner: Runner, epoch: int) -> None:
        for n, backbone in enumerate(_backbones(runner)):
            suffix = f'_{n}' if n else ''
            values = [v.mean().item() for v in position_nonlocality(backbone)]
            runner.visualizer.add_scalars(
                {f'nonlocality{suffix}/block{i}': value for i, value in enumerate(values)}, step=epoch)
            runner.logger.info(f'nonlocality{suffix} after epoch {epoch}: ' + ' '.join(f'{v:.3f}' for v in values))

    def before_train(self, runner: Runner) -> None:
        """Log where training starts from."""
        self._log(runner, runner.epoch)

    def after_train_epoch(self, runner: Runner) -> None:
        """Log every ``interval`` epochs."""
        if self.every_n_epochs(runner, self.interval):
            self._log(runner, runner.epoch + 1)


@HOOKS.register_module()
class PerViTPositionMapHook(Hook):
    """Draw the learned Φp of every block and head through the runner's visualizer.

    TensorBoard, W&B and the local backend receive the picture ``position_map`` alike.

    Args:
        interval (int): Every so many epochs, and before the first. Defaults to 1.
        query (tuple[int, int], optional): Token (row, column) on the pretraining grid. Defaults to None, the centre.

    Raises:
        ValueError: If ``interval`` is not a positive integer.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 1, query: tuple[int, int] | None = None) -> None:
        self.interval = _check_interval(self, interval)
        self.query = query

    def _draw(self, runner: Runner, epoch: int) -> None:
        for n, backbone in enumerate(_backbones(runner)):
            name = f'position_map_{n}' if n else 'position_map'
            runner.visualizer.add_image(name, draw_position_maps(backbone, self.query), step=epoch)

    def before_train(self, runner: Runner) -> None:
        """Draw where training starts from."""
        self._draw(runner, runner.epoch)

    def after_train_epoch(self, runner: Runner) -> None:
        """Draw every ``interval`` epochs."""
        if self.every_n_epochs(runner, self.interval):
            self._draw(runner, runner.epoch + 1)


def _check_interval(hook: Hook, interval: int) -> int:
    """A positive number of epochs, or ValueError."""
    if type(interval) is not int or interval < 1:
        raise ValueError(f'interval of {type(hook).__name__} must be a positive number of epochs, got {interval!r}')
    return interval
