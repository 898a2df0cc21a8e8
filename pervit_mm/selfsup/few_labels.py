"""A few labeled images of a data set, the same for all who compare."""
import torch
from mmengine.dataset import force_full_init
from mmengine.registry import DATASETS

from ..evaluation import draw_shots
from ..utils.errors import UserError


@DATASETS.register_module()
class PerViTFewLabels:
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
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.shots, self.fraction, self.seed = shots, fraction, seed
        self._fully_initialized = False
        if not getattr(self.dataset, 'lazy_init', False):
            self.full_init()

    def full_init(self) -> None:
        """Read the data set and keep the images that are drawn."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        try:
            labels = torch.as_tensor(self.dataset.get_gt_labels())
        except (KeyError, AttributeError, TypeError) as error:
            raise UserError(f'dataset of PerViTFewLabels must have one label for each image, and '
                            f'{type(self.dataset).__name__} has none: give one with labels') from error
        shots = self.shots
        if shots is None:
            shots = max(1, round(self.fraction * int(labels.unique(return_counts=True)[1].min())))
        self.indices = draw_shots(labels, shots, self.seed).tolist()
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
    def __len__(self) -> int:
        return len(self.indices)

    @force_full_init
    def __getitem__(self, idx: int) -> dict:
        return self.dataset[self.indices[idx]]
