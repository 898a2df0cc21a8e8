"""Hooks that watch Φp in training: logging its reach and how far it moves, drawing it."""
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...models import PerViT, find_backbones
from ...utils.errors import UserError
from .recorder import Recorder


def runner_backbones(runner: Runner) -> list[PerViT]:
    """Every PerViT of a runner's model, DDP or not."""
    model = runner.model
    return find_backbones(model.module if is_model_wrapper(model) else model)


class _PositionRecorder(Recorder):
    """Record something of the Φp of each PerViT in the model."""

    def record_all(self, runner: Runner, step: int) -> None:
        """Record each backbone."""
        for n, backbone in enumerate(runner_backbones(runner)):
            self.record(runner, backbone, f'_{n}' if n else '', step)

    def record(self, runner: Runner, backbone: PerViT, name: str, step: int) -> None:
        """Record one backbone; ``name`` tells several apart and is empty for the first."""
        raise NotImplementedError(f'{type(self).__name__} must say what it records')


@HOOKS.register_module()
class PerViTNonlocalityHook(_PositionRecorder):
    """Log the nonlocality of each block's Φp, to the log and as scalars ``nonlocality/block{i}``.

    Nonlocality is the mean over queries, keys and heads of distance times Φp, the paper's measure, on the pretraining
    grid. The scalars go to every backend of the runner's visualizer.

    Args:
        interval (int): Every so many epochs, or iterations, and before training. Defaults to 1.
        by_epoch (bool): Whether ``interval`` counts epochs. Runs by iteration need False. Defaults to True.

    Raises:
        UserError: If ``interval`` is not a positive integer, or, when training starts, if the run has no epochs or the
            model no Φp.
    """

    def record(self, runner: Runner, backbone: PerViT, name: str, step: int) -> None:
        """Log one value for each block."""
        from ...analysis.nonlocality import position_nonlocality  # here: `import pervit_mm` doesn't load the analysis
        values = [v.mean().item() for v in position_nonlocality(backbone)]
        runner.visualizer.add_scalars(
            {f'nonlocality{name}/block{i}': value for i, value in enumerate(values)}, step=step)
        unit = 'epoch' if self.by_epoch else 'iteration'
        runner.logger.info(f'nonlocality{name} after {unit} {step}: ' + ' '.join(f'{v:.3f}' for v in values))


@HOOKS.register_module()
class PerViTPositionShiftHook(_PositionRecorder):
    """Log how far each block's Φp has moved since training started, to the log and as scalars.

    ``position_shift/block{i}`` is the share of attention by position alone that has gone to other keys, from 0 to 1,
    the mean over queries and heads: see :func:`pervit_mm.analysis.position_shift`. The start is kept in MMEngine's
    message hub, so a resumed run still measures from the first iteration. A checkpoint grows by 4 bytes for each block,
    head and pair of tokens: 0.2 MB for nano, 7 MB for tiny. The hook knows one PerViT in a model, the first.

    Args:
        interval (int): Every so many epochs, or iterations. Defaults to 1.
        by_epoch (bool): Whether ``interval`` counts epochs. Runs by iteration need False. Defaults to True.

    Raises:
        UserError: If ``interval`` is not a positive integer, or, when training starts, if the run has no epochs or the
            model no Φp.
    """

    def record(self, runner: Runner, backbone: PerViT, name: str, step: int) -> None:
        """Log one value for each block."""
        from ...analysis.position_shift import position_shares, position_shift
        if name:
            return
        shares, hub = [share.cpu() for share in position_shares(backbone)], runner.message_hub
        if 'position_start' not in hub.runtime_info:
            hub.update_info('position_start', shares)
            if step:
                runner.logger.info('PerViTPositionShiftHook: the checkpoint has no start of Φp, so the shift counts '
                                   'from here')
        values = [v.mean().item() for v in position_shift(hub.get_info('position_start'), shares)]
        runner.visualizer.add_scalars({f'position_shift/block{i}': value for i, value in enumerate(values)}, step=step)
        unit = 'epoch' if self.by_epoch else 'iteration'
        runner.logger.info(f'position_shift after {unit} {step}: ' + ' '.join(f'{v:.3f}' for v in values))


@HOOKS.register_module()
class PerViTPositionMapHook(_PositionRecorder):
    """Draw the learned Φp of every block and head through the runner's visualizer.

    TensorBoard, W&B and the local backend receive the picture ``position_map`` alike.

    Args:
        interval (int): Every so many epochs, or iterations, and before training. Defaults to 1.
        by_epoch (bool): Whether ``interval`` counts epochs. Runs by iteration need False. Defaults to True.
        query (tuple[int, int], optional): Token (row, column) on the pretraining grid. Defaults to None, the center.

    Raises:
        UserError: If ``interval`` is not a positive integer or ``query`` no pair; when training starts, if the run has
            no epochs, the model no Φp, or the query lies outside its grid.
    """

    def __init__(self, interval: int = 1, by_epoch: bool = True, query: tuple[int, int] | None = None) -> None:
        super().__init__(interval, by_epoch)
        if query is not None and (not isinstance(query, (tuple, list)) or len(query) != 2
                                  or not all(type(v) is int for v in query)):
            raise UserError(f'query of PerViTPositionMapHook must be a token (row, column), got {query!r}')
        self.query = None if query is None else tuple(query)

    def record(self, runner: Runner, backbone: PerViT, name: str, step: int) -> None:
        """Draw one picture."""
        from ...analysis.position_maps import draw_position_maps  # here: it brings matplotlib
        runner.visualizer.add_image(f'position_map{name}', draw_position_maps(backbone, self.query), step=step)
