"""A hook that watches how far and how sharply a model attends while it learns."""
from mmengine.dataset import pseudo_collate
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...utils.errors import UserError
from .random_state import get_generators, set_generators
from .recorder import Recorder


@HOOKS.register_module(name=['AttentionStatsHook', 'PerViTAttentionStatsHook'])
class AttentionStatsHook(Recorder):
    """Log attention distance and entropy of each block on a fixed batch, for any model with tokens.

    The scalars ``attention_distance/block{i}``, in tokens, and ``attention_entropy/block{i}``, in nats, are means over
    images and heads of Φa, without class tokens. They go to every backend of the runner's visualizer. The batch comes
    from the validation set, or from the training set if there is none. The model sees it in eval mode. Weights,
    statistics and random numbers of the training stay as they would be without the hook.

    Args:
        interval (int): Every so many epochs, or iterations, and before training. Defaults to 1.
        by_epoch (bool): Whether ``interval`` counts epochs. Runs by iteration need False. Defaults to True.
        num_images (int): Images of the batch: the first of the data set. Defaults to 8.

    Raises:
        UserError: If ``interval`` or ``num_images`` is not a positive integer, or, when training starts, if the run has
            no epochs or the model no tokens.

    Examples:
        >>> custom_hooks = [dict(type='AttentionStatsHook', interval=5)]
    """

    def __init__(self, interval: int = 1, by_epoch: bool = True, num_images: int = 8) -> None:
        super().__init__(interval, by_epoch)
        if type(num_images) is not int or num_images < 1:
            raise UserError(f'num_images of AttentionStatsHook must be a positive number, got {num_images!r}')
        self.num_images = num_images
        self._batch: dict | None = None

    def before_train(self, runner: Runner) -> None:
        """Read the batch, and record where training starts from."""
        loop = runner.val_loop or runner.train_loop
        dataset = loop.dataloader.dataset
        state = get_generators()  # a training pipeline draws random numbers
        self._batch = pseudo_collate([dataset[i] for i in range(min(self.num_images, len(dataset)))])
        set_generators(state)
        super().before_train(runner)

    def record_all(self, runner: Runner, step: int) -> None:
        """Run the batch and log two values for each block."""
        # Here: `import pervit_mm` doesn't load these rooms.
        from ...analysis import attention_distance, attention_entropy, capture, find_backbone
        from ...evaluation.features import evaluating

        def stats(block) -> tuple[float, float]:
            given = block.attention, block.hw_shape
            return attention_distance(*given).mean().item(), attention_entropy(*given).mean().item()

        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        with evaluating(model), capture(model, each=stats) as record:
            inputs = model.data_preprocessor(self._batch, False)['inputs']
            find_backbone(model)(inputs)
        unit = 'epoch' if self.by_epoch else 'iteration'
        for name, values in zip(('attention_distance', 'attention_entropy'), zip(*record)):
            runner.visualizer.add_scalars({f'{name}/block{i}': value for i, value in enumerate(values)}, step=step)
            runner.logger.info(f'{name} after {unit} {step}: ' + ' '.join(f'{value:.3f}' for value in values))
