"""The images of some classes of a data set, as one task of several."""
from collections.abc import Sequence

import torch
from mmengine.registry import DATASETS
from torch import Tensor

from ..utils.errors import UserError
from .checks import check_classes
from .labeled_subset import LabeledSubset


@DATASETS.register_module()
class PerViTChosenClasses(LabeledSubset):
    """The images of the chosen classes. Labels and the names of classes stay as they are.

    Args:
        dataset (dict | BaseDataset): A data set of MMPretrain with one label for each image.
        classes (Sequence[int]): Numbers of the classes.

    Raises:
        UserError: If the data set has no labels, or no image of one of the classes.

    Examples:
        >>> train_dataloader = dict(dataset=dict(
        ...     _delete_=True, type='PerViTChosenClasses', classes=[0, 1], dataset=dict(type='FashionMNIST', ...)))
    """

    def __init__(self, dataset: dict, classes: Sequence[int]) -> None:
        check_classes(**{'classes of PerViTChosenClasses': classes})
        self.classes = tuple(classes)
        super().__init__(dataset)

    def choose(self, labels: Tensor) -> Tensor:
        """Keep all images of the classes, in their order."""
        missing = sorted(set(self.classes) - set(labels.tolist()))
        if missing:
            raise UserError(f'classes of PerViTChosenClasses names {missing}, of which the data set has no image: its '
                            f'labels are from {int(labels.min())} to {int(labels.max())}')
        return torch.isin(labels, torch.tensor(self.classes)).nonzero()[:, 0]
