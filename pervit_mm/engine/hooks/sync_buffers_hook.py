"""BatchNorm's statistics in training by iteration with several processes."""
from mmengine.dist import all_reduce_params
from mmengine.hooks import SyncBuffersHook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class PerViTSyncBuffersHook(SyncBuffersHook):
    """Average the buffers of all processes after each iteration.

    Where BatchNorm trains in several processes, each has running statistics of its own. MMEngine's hook averages them
    behind each epoch, which a loop by iteration has none of, and before validation, which is after a checkpoint of the
    same iteration was written. So what is validated, process by process or averaged, would not be what is saved. Here
    it is the same at any time, for one small message an iteration. In a single process it does nothing.

    Examples:
        >>> custom_hooks = [dict(type='PerViTSyncBuffersHook')]
    """

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Average, ahead of ``CheckpointHook``, whose priority is lower."""
        if self.distributed:
            all_reduce_params(runner.model.buffers(), op='mean')
            self.called_in_train = True  # not again before validation
