"""A trained model and images for it, as the analysis tools take them."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DATASETS, DefaultScope
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop, rgb_to_grayscale

from ..checkpoints import classifier_weights, read_checkpoint
from ..engine.launch import check_data
from ..utils.errors import UserError, told
from ..utils.type_names import type_name
from .building import build_model
from .configs import input_shape, preprocessing_of
from .images import UnreadableImageError, read_image
from .named_models import check_device, resolve_model

#: Transforms of a test pipeline that need more than an image.
_NOT_FOR_IMAGES = ('LoadImageFromFile', 'PerViTLoadImageFromFile', 'LoadAnnotations')


@dataclass
class Images:
    """Images as the pipeline of a config gives them.

    Attributes:
        pixels (Tensor): ``(B, C, h, w)`` float32 in [0, 255], before normalization, channels in the order of the
            pipeline (BGR).
        labels (Tensor, optional): Class of each, ``(B,)``; None without.
        names (list[str]): File name, or number in the data set.
        unreadable (list[str]): One sentence for each file that was left out.
    """
    pixels: Tensor
    labels: Tensor | None
    names: list[str]
    unreadable: list[str]

    def rgb(self) -> np.ndarray:
        """The images for pictures, ``(B, h, w, 3)`` uint8; gray ones three times."""
        pixels = self.pixels.round().clamp(0, 255).to(torch.uint8)
        pixels = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels.flip(1)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()


@dataclass
class Subject:
    """A model in eval mode, with its config.

    Attributes:
        name (str): Of the zoo, or of the config file, without suffix.
        cfg (Config): Its config.
        model (nn.Module): With weights, in eval mode.
        device (str): Where it is.
        classes (tuple[str, ...], optional): Names of the classes, if the checkpoint has them.
    """
    name: str
    cfg: Config
    model: nn.Module
    device: str
    classes: tuple[str, ...] | None = None

    @property
    def backbone(self) -> nn.Module:
        """Backbone of the model."""
        return self.model.backbone

    @property
    def is_classifier(self) -> bool:
        """Whether the model gives one score for each class and image."""
        return self.cfg.get('default_scope') == 'mmpretrain'

    def normalize(self, pixels: Tensor) -> Tensor:
        """Turn pixels ``(B, C, h, w)`` in [0, 255] into what the network takes, as its data preprocessor does."""
        settings = preprocessing_of(self.cfg)
        if settings['to_rgb'] and pixels.shape[1] == 3:
            pixels = pixels.flip(1)
        if settings['mean'] is None:
            return pixels
        mean, std = (pixels.new_tensor(settings[key])[:, None, None] for key in ('mean', 'std'))
        return (pixels - mean) / std

    def logits(self, inputs: Tensor) -> Tensor:
        """Scores ``(B, classes)`` of normalized images, before softmax.

        Raises:
            UserError: If the model is no classifier.
        """
        if not self.is_classifier:
            raise UserError(f'model={self.name!r} is of {self.cfg.get("default_scope")} and no classifier, so it has '
                            'no score for each class: give a classifier')
        return self.model(inputs, mode='tensor')

    def load(self, paths: Sequence[str | Path] | None = None, count: int = 64) -> Images:
        """Read images by the test pipeline of the config.

        Args:
            paths (Sequence[str | Path], optional): Image files. Those that can't be read are named in ``unreadable``.
                Defaults to None, the test set of the config.
            count (int): Images of the test set, evenly from its first to its last; all if it has fewer. Defaults to 64.

        Returns:
            Images: On the device of the model. If they differ in size, their middle in the least height and width.

        Raises:
            UserError: If no image can be read, or the test set isn't there.
        """
        if type(count) is not int or count < 1:
            raise UserError(f'count (--images or --count) must be a positive number of images, got {count!r}')
        with DefaultScope.overwrite_default_scope(self.cfg.get('default_scope')):
            samples, names, unreadable = self._from_files(paths) if paths else self._from_test_set(count)
        if not samples:
            raise UserError(f'images: none of {len(unreadable)} can be read: {unreadable[0]}')
        inputs = [torch.as_tensor(sample['inputs']) for sample in samples]
        # Images of detection differ in size. The middle is kept, so that their scale is.
        height, width = (min(x.shape[axis] for x in inputs) for axis in (1, 2))
        inputs = [center_crop(x, [height, width]) for x in inputs]
        labels = [getattr(sample['data_samples'], 'gt_label', None) for sample in samples]
        known = all(label is not None for label in labels)
        return Images(torch.stack(inputs).float().to(self.device),
                      torch.cat([label.flatten()[:1] for label in labels]).to(self.device) if known else None, names,
                      unreadable)

    def _from_test_set(self, count: int) -> tuple[list[dict], list[str], list[str]]:
        check_data(self.cfg, 'test_dataloader')
        if self.cfg.get('test_dataloader') is None:
            raise UserError(f'the config of model={self.name!r} has no test_dataloader: name image files')
        with told('the test set of the config cannot be read', OSError, KeyError, AssertionError):  # MMPretrain asserts
            dataset = DATASETS.build(self.cfg.test_dataloader.dataset)
        chosen = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int)).tolist()
        return [dataset[i] for i in chosen], [f'{type(dataset).__name__} {i}' for i in chosen], []

    def _from_files(self, paths: Sequence[str | Path]) -> tuple[list[dict], list[str], list[str]]:
        if self.cfg.get('test_dataloader') is None:
            raise UserError(f'the config of model={self.name!r} has no test_dataloader, so it does not say how images '
                            'are prepared: give it one with a pipeline')
        gray = input_shape(self.cfg)[0] == 1
        steps = [step for step in self.cfg.test_dataloader.dataset.pipeline
                 if type_name(step) not in _NOT_FOR_IMAGES]
        pipeline, samples, names, unreadable = Compose(steps), [], [], []
        for path in map(Path, paths):
            try:
                pixels = read_image(path)
            except UnreadableImageError as error:
                unreadable.append(str(error))
                continue
            size = pixels.shape[:2]
            sample = pipeline(dict(img=pixels, img_path=str(path), img_id=0, img_shape=size, ori_shape=size))
            if gray and len(sample['inputs']) == 3:  # the pipeline of a set of gray images may not make any gray
                sample['inputs'] = rgb_to_grayscale(sample['inputs'].flip(0))
            samples.append(sample)
            names.append(path.name)
        return samples, names, unreadable


def open_subject(model: str, weights: str | None = None, device: str | None = None) -> Subject:
    """Build a model with its weights, in eval mode.

    Args:
        model (str): A name of the zoo, or the path of a config.
        weights (str, optional): The checkpoint. It must be given for a config. Defaults to None, the published one.
        device (str, optional): Defaults to None, which takes a GPU if there is one.

    Returns:
        Subject: The model with its config.

    Raises:
        UserError: If there is no such model, or the weights are missing, can't be read, or are of another model.
    """
    cfg, weights = resolve_model(model, weights)
    device = check_device(device or get_device())
    content = read_checkpoint(weights)
    built = build_model(cfg, classifier_weights(content, weights)).to(device)
    meta = content.get('meta') or {}
    return Subject(Path(model).stem, cfg, built, device, (meta.get('dataset_meta') or {}).get('classes'))
