"""A few labeled images of a data set, the same for all who compare."""
from mmengine.registry import DATASETS
from torch import Tensor

from ..evaluation import draw_shots
from ..utils.errors import UserError
from .labeled_subset import LabeledSubset


@DATASETS.register_module()
class PerViTFewLabels(LabeledSubset):
    """The same number of images of each class, drawn by a seed: the 1 % and 10 % splits of the benchmarks.

    Args:
        dataset (dict | BaseDataset): A data set of MMPretrain with one label for each image.
        shots (int, optional): Images of each class. Either this or ``fraction`` must be given. Defaults to None.
        fraction (float, optional): Share of the images of the smallest class, rounded to a whole number of at least 1.
            Defaults to None.
        seed (int): The same seed draws the same images. Defaults to 0.

    Raises:
        UserError: If the data set has no labels, neither or both of ``shots`` and ``fraction`` are given, or one is out
            of range.

    Examples:
        >>> train_dataloader = dict(dataset=dict(
        ...     _delete_=True, type='PerViTFewLabels', fraction=0.01, seed=0, dataset=dict(type='FashionMNIST', ...)))
    """

    def __init__(self, dataset: dict, shots: int | None = None, fraction: float | None = None, seed: int = 0) -> None:
        if (shots is None) == (fraction is None):
            raise UserError(f'PerViTFewLabels takes shots or fraction, one of the two, got shots={shots!r} and '
                            f'fraction={fraction!r}')
        if fraction is not None and not (isinstance(fraction, (int, float)) and 0 < fraction <= 1):
            raise UserError(f'fraction of PerViTFewLabels must be above 0 and at most 1, got {fraction!r}')
        self.shots, self.fraction, self.seed = shots, fraction, seed
        super().__init__(dataset)

    def choose(self, labels: Tensor) -> Tensor:
        """Draw the images."""
        shots = self.shots
        if shots is None:
            shots = max(1, round(self.fraction * int(labels.unique(return_counts=True)[1].min())))
        return draw_shots(labels, shots, self.seed)
