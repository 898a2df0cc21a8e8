"""Which images a training passed over."""
import os

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...datasets.loading import PerViTLoadImageFromFile, broken_images


@HOOKS.register_module()
class PerViTBrokenImagesHook(Hook):
    """Count and name the images that :class:`PerViTLoadImageFromFile` passed over, at the end of a training.

    Their paths are in ``broken_images.txt`` of the work directory, too.

    Examples:
        >>> custom_hooks = [dict(type='PerViTBrokenImagesHook')]
    """

    def before_train(self, runner: Runner) -> None:
        """Tell the transforms where to report, ahead of the workers, which get copies."""
        self.report = os.path.join(runner.work_dir, 'broken_images.txt')
        for dataset in _datasets(runner.train_dataloader.dataset):
            for transform in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()):
                if isinstance(transform, PerViTLoadImageFromFile):
                    transform.report = self.report

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
