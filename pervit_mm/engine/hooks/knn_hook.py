"""A hook that asks the nearest neighbors what the features of a run are worth, without a head."""
import copy
from collections.abc import Sequence

from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler

from ...utils.errors import UserError
from .preemption_hook import PerViTPreemptionHook
from .random_state import get_generators, set_generators
from .recorder import Recorder


@HOOKS.register_module(name=['KNNHook', 'PerViTKNNHook'])
class KNNHook(Recorder):
    """Log the accuracy of k nearest neighbors on the backbone's output, for runs without labels and others.

    The scalars ``knn/top1_k{k}``, in percent, go to every backend of the runner's visualizer. The training stays as it
    would be without the hook. Votes are weighted as in :func:`pervit_mm.evaluation.knn_accuracy`.

    The first process alone does this, and the others wait. With a bank as large as ImageNet take a part of it, or raise
    ``env_cfg.dist_cfg.timeout``, after which the others give up.

    Args:
        bank (dict): Data loader with the labeled images that vote, with a test pipeline.
        queries (dict): Data loader with the images that are asked about.
        k (Sequence[int]): Numbers of neighbors. Defaults to (20, ).
        temperature (float): Of the vote. Defaults to 0.07.
        recalibrate (int): Images of the bank from which BatchNorm gets statistics first, in a copy of the model. A
            training on masked images needs it. Defaults to 0, none.
        backbone (str): Name of the submodule whose features count, such as 'teacher.module.backbone' for the teacher
            of a self-distillation. Defaults to 'backbone'.
        interval (int): Every so many epochs, or iterations. Defaults to 1.
        by_epoch (bool): Whether ``interval`` counts epochs. Runs by iteration need False. Defaults to True.
        before_training (bool): Whether to ask before training, too. Defaults to True.

    Raises:
        UserError: If ``interval`` or a number of neighbors is not a positive integer or ``recalibrate`` is negative;
            when training starts, if the model has no such backbone, the run has no epochs or the bank fewer images than
            neighbors.
    """

    def __init__(self, bank: dict, queries: dict, k: Sequence[int] = (20, ), temperature: float = 0.07,
                 recalibrate: int = 0, backbone: str = 'backbone', interval: int = 1, by_epoch: bool = True,
                 before_training: bool = True) -> None:
        super().__init__(interval, by_epoch, before_training)
        if not isinstance(k, (tuple, list)) or not k or not all(type(n) is int and n > 0 for n in k):
            raise UserError(f'k of KNNHook must be positive numbers of neighbors, such as (20, ), got {k!r}')
        if type(recalibrate) is not int or recalibrate < 0:
            raise UserError(f'recalibrate of KNNHook must be a number of images of at least 0, got {recalibrate!r}')
        self.bank, self.queries, self.backbone = bank, queries, backbone
        self.k, self.temperature, self.recalibrate = tuple(k), temperature, recalibrate
        self._loaders: list[DataLoader] = []

    def before_train(self, runner: Runner) -> None:
        """Build the loaders, and record where training starts from."""
        self._loaders.clear()
        for config in (self.bank, self.queries):
            config = copy.deepcopy(dict(config))
            dataset = config.pop('dataset')
            dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
            # Only the first rank records, so its sampler takes all images and not those of its rank.
            config.update(dataset=dataset, sampler=SequentialSampler(dataset))
            self._loaders.append(Runner.build_dataloader(config))
        for hook in runner.hooks:
            if isinstance(hook, PerViTPreemptionHook):  # their workers may get its signals too
                for loader in self._loaders:
                    hook.shield(loader)
        if max(self.k) > len(self._loaders[0].dataset):
            raise UserError(f'k of KNNHook must be at most {len(self._loaders[0].dataset)}, the images of its bank, '
                            f'got {self.k}')
        self._part(runner)  # a wrong name is an error now and not after hours
        super().before_train(runner)

    def _part(self, runner: Runner) -> nn.Module:
        """The backbone that is asked for, with the model's data preprocessor, as a model of its own."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        part = nn.Module()
        try:
            part.backbone = model.get_submodule(self.backbone)
        except AttributeError:
            raise UserError(f'backbone of KNNHook names {self.backbone!r}, which {type(model).__name__} does not have; '
                            f'at its top are {[name for name, _ in model.named_children()]}') from None
        part.data_preprocessor = model.data_preprocessor
        return part

    def record_all(self, runner: Runner, step: int) -> None:
        """Collect features of bank and queries, and log one value for each number of neighbors."""
        from ...evaluation import collect_features, knn_accuracy, recalibrate  # `import pervit_mm` doesn't load these
        model = self._part(runner)
        state = get_generators()  # each start of a loader draws a random number
        if self.recalibrate:
            model = revert_sync_batchnorm(copy.deepcopy(model))  # only the first rank is here
            recalibrate(model, self._loaders[0], self.recalibrate)
        bank, queries = (collect_features(model, loader, ()) for loader in self._loaders)
        set_generators(state)
        found = knn_accuracy(bank.output, bank.labels, queries.output, queries.labels, self.k, self.temperature)
        runner.visualizer.add_scalars({f'knn/top1_k{k}': value for k, value in found.items()}, step=step)
        unit = 'epoch' if self.by_epoch else 'iteration'
        runner.logger.info(f'k-NN after {unit} {step}: ' + ', '.join(
            f'{value:.2f} (k = {k})' for k, value in found.items()))
