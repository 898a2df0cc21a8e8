"""Which images a training passed over."""
import os
from contextlib import suppress

from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import Dataset

from ...datasets.loading import PerViTLoadImageFromFile, broken_images


@HOOKS.register_module()
class PerViTBrokenImagesHook(Hook):
    """Count and name the images that :class:`PerViTLoadImageFromFile` passed over, at the end of a training.

    Their paths are in ``broken_images.txt`` of the work directory, too. A new training writes it anew, and one that is
    resumed goes on with it.

    A loop by iteration starts its workers when it is built, and no hook is called before. So ``PerViTRunner`` calls
    :meth:`watch` itself. MMEngine's own runner counts in loops by epoch, or without workers.

    Examples:
        >>> custom_hooks = [dict(type='PerViTBrokenImagesHook')]
    """

    def __init__(self) -> None:
        self.report: str | None = None

    def watch(self, runner: Runner, dataset: Dataset) -> None:
        """Tell the transforms where to report, ahead of the workers, which get copies.

        Args:
            runner (Runner): Whose work directory gets the file.
            dataset (Dataset): Of the training.
        """
        if self.report is not None:
            return
        self.report = os.path.join(runner.work_dir, 'broken_images.txt')
        if not runner._resume and is_main_process():
            with suppress(FileNotFoundError):
                os.remove(self.report)
        barrier()  # nobody writes into a file that is about to go
        for part in _datasets(dataset):
            for transform in getattr(getattr(part, 'pipeline', None), 'transforms', ()):
                if isinstance(transform, PerViTLoadImageFromFile):
                    transform.report = self.report

    def before_train(self, runner: Runner) -> None:
        """Watch, under a runner that didn't ask for it before."""
        loader = runner.train_dataloader
        if self.report is None and isinstance(runner.train_loop, IterBasedTrainLoop) and loader.num_workers:
            runner.logger.warning("PerViTBrokenImagesHook: the workers have started already, so broken images won't be "
                                  "counted: set runner_type = 'PerViTRunner' in the config")
        self.watch(runner, loader.dataset)

    def after_train(self, runner: Runner) -> None:
        """Report."""
        paths = broken_images(self.report)
        if paths and is_main_process():
            runner.logger.warning(f'{len(paths)} images could not be read, and others were taken in their place: '
                                  f'{", ".join(paths[:5])}{" ..." if len(paths) > 5 else ""}. All are in {self.report}')


def _datasets(dataset):
    """A data set and those that it wraps or joins."""
    yield dataset
    inner = [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())]
    for one in inner:
        if one is not None:
            yield from _datasets(one)
