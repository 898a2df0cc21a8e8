"""BatchNorm's statistics in training with several processes."""
from mmengine.dist import all_reduce_params
from mmengine.hooks import SyncBuffersHook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop


@HOOKS.register_module()
class PerViTSyncBuffersHook(SyncBuffersHook):
    """Average the buffers of all processes: behind each epoch, and in a loop by iteration behind each iteration.

    Where BatchNorm trains in several processes, each has running statistics of its own. MMEngine's hook averages them
    behind each epoch, ahead of saving. A loop by iteration has no epochs on its way, and there it averages before
    validation, which is after the checkpoint of the same iteration was written: what is validated would not be what is
    saved. Here it is, for a small message or two each iteration. In a single process it does nothing.

    Examples:
        >>> custom_hooks = [dict(type='PerViTSyncBuffersHook')]
    """

    # Ahead of EMAHook (NORMAL), which may average buffers over time, and of CheckpointHook (VERY_LOW).
    priority = 'ABOVE_NORMAL'

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Average, in a loop by iteration."""
        if self.distributed and isinstance(runner.train_loop, IterBasedTrainLoop):
            all_reduce_params(runner.model.buffers(), op='mean')
            self.called_in_train = True  # not again before validation
