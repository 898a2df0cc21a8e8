"""A part of the images of a data set, chosen by their labels."""
import numpy as np
import torch
from mmengine.dataset import force_full_init
from mmengine.registry import DATASETS
from torch import Tensor

from ..utils.errors import UserError


class LabeledSubset:
    """Base class of wrappers that keep some images of a data set, by their labels. Derived classes choose.

    Args:
        dataset (dict | BaseDataset): A data set of MMPretrain with one label for each image.

    Raises:
        UserError: If the data set has no labels.
    """

    def __init__(self, dataset: dict) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self._fully_initialized = False
        if not getattr(self.dataset, 'lazy_init', False):
            self.full_init()

    def choose(self, labels: Tensor) -> Tensor:
        """Places of the images to keep, int64, from the labels ``(n,)`` of all."""
        raise NotImplementedError(f'{type(self).__name__} must have choose(labels), which gives places')

    def full_init(self) -> None:
        """Read the data set and keep the images that are chosen."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        try:
            labels = torch.as_tensor(self.dataset.get_gt_labels())
        except (KeyError, AttributeError, TypeError) as error:
            raise UserError(f'dataset of {type(self).__name__} must have one label for each image, and '
                            f'{type(self.dataset).__name__} has none: give one with labels') from error
        chosen = self.choose(labels)
        self.indices, self._labels = chosen.tolist(), labels[chosen].numpy()
        self._fully_initialized = True

    @property
    def metainfo(self) -> dict:
        """Meta information of the data set."""
        return self.dataset.metainfo

    @force_full_init
    def get_data_info(self, idx: int) -> dict:
        """Annotation of an image."""
        return self.dataset.get_data_info(self.indices[idx])

    @force_full_init
    def get_cat_ids(self, idx: int) -> list[int]:
        """Class of an image, for samplers."""
        return self.dataset.get_cat_ids(self.indices[idx])

    @force_full_init
    def get_gt_labels(self) -> np.ndarray:
        """Classes of all images, ``(n,)``."""
        return self._labels

    @force_full_init
    def __len__(self) -> int:
        return len(self.indices)

    @force_full_init
    def __getitem__(self, idx: int) -> dict:
        return self.dataset[self.indices[idx]]
