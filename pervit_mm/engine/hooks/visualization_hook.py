"""The pictures of ``tools/test.py --show-dir`` for classifiers. Imported by need alone, since it needs MMPretrain."""
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.engine.hooks import VisualizationHook
from mmpretrain.structures import DataSample


@HOOKS.register_module()
class PerViTVisualizationHook(VisualizationHook):
    """MMPretrain's ``VisualizationHook`` with the colors of the image.

    MMPretrain's hook draws the pixels that the loader gives as if they were RGB. ``LoadImageFromFile`` gives BGR, and
    the data preprocessor turns them afterwards (``to_rgb=True``). So red and blue change places in its pictures. Images
    of one channel, as in Fashion-MNIST, get false colors there, and are gray here. A picture is named after the image
    and its folder, since the folders of two classes may hold files of one name.

    Args:
        enable (bool): Whether to draw. Defaults to False.
        interval (int): Draw every so many images. Defaults to 5000.
        show (bool): Whether to open a window for each picture. Defaults to False.
        out_dir (str, optional): The folder for the pictures. Defaults to None: to the backends of the visualizer.
        **kwargs: Of :meth:`mmpretrain.visualization.UniversalVisualizer.visualize_cls`, for example ``resize``.
    """

    def _draw_samples(self, batch_idx: int, data_batch: dict, data_samples: Sequence[DataSample], step: int = 0
                      ) -> None:
        images = data_batch['inputs']
        if not (isinstance(images[0], torch.Tensor) and images[0].ndim == 3):
            images = images[0]  # the first of several views, of --tta
        images = [image.expand(3, -1, -1) if len(image) == 1 else image.flip(0) if self.to_rgb else image
                  for image in images]
        super()._draw_samples(batch_idx, dict(inputs=images), [_with_folder(one) for one in data_samples], step)

    def before_run(self, runner: Runner) -> None:
        """Look whether the model's data preprocessor turns BGR into RGB.

        Args:
            runner (Runner): With a model of MMPretrain.
        """
        # The model may be wrapped, for several GPUs and for --tta.
        self.to_rgb = any(getattr(module, 'to_rgb', False) for module in runner.model.modules())


def _with_folder(sample: DataSample) -> DataSample:
    """A copy whose ``img_path`` is the name of the folder and that of the file in one."""
    if 'img_path' not in sample:
        return sample
    named = sample.clone()
    named.set_metainfo(dict(img_path='_'.join(Path(sample.img_path).parts[-2:])))
    return named
