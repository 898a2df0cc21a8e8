"""Learning task after task: a classifier that asks the network of the tasks before."""
import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmpretrain.models.classifiers import ImageClassifier
from torch import Tensor, nn

from ..checkpoints import read_classifier
from ..models import PerViT
from ..utils.errors import UserError, told
from .block_maps import record_blocks
from .checks import check_positive, check_tasks


class FrozenModel(nn.Module):
    """Hold a model that another one asks, and that never changes.

    It is in eval mode whatever mode the holder has. It has no parameters for optimizers and DDP, no keys in
    checkpoints, and nothing for initialization. It moves between devices with the holder.

    Args:
        model (nn.Module, optional): Changed: frozen, in eval mode. None holds nothing.
    """

    def __init__(self, model: nn.Module | None) -> None:
        super().__init__()
        if model is not None:
            model.eval()
            model.requires_grad_(False)
        self._held = (model, )  # in a tuple, where torch doesn't look for modules

    @property
    def model(self) -> nn.Module | None:
        """The model."""
        return self._held[0]

    def _apply(self, fn: Callable, recurse: bool = True) -> 'FrozenModel':
        """Move or convert the model too."""
        if recurse and self.model is not None:
            self.model._apply(fn)
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """What the model gives."""
        return self.model(inputs)


@MODELS.register_module()
class DistilledClassifier(ImageClassifier):
    """A classifier that learns one task of several, and keeps what the network of the tasks before knew.

    The head has a class for each class of all tasks. The cross-entropy of a task is over the logits of its own classes
    alone, as with a head for each task. So predictions have scores of all classes of the head, those of later tasks
    included; :class:`pervit_mm.selfsup.PerViTTaskAccuracy` looks at the right ones. There are no old images.

    The old network sees the images of the new task, and there are three ways to stay near it:

    - LwF (Li and Hoiem 2016): KL(old ‖ new) of the softmax over all old classes together, at temperature T. No factor
      T², as in the authors' of the next. λ = 1, T = 2 are theirs.
    - ``map_loss``: attention or functional maps, see :class:`MapDistillation` (Pelosin et al. 2022, who add it to LwF).
    - ``position_loss``: Φp, see :class:`PositionDistillation`. Alone, it doesn't run the old network on images.

    Args:
        backbone (dict): A PerViT.
        head (dict): A linear head of MMPretrain with classes for all tasks.
        tasks (Sequence[Sequence[int]]): Classes of each task.
        task (int): Number of the task to learn, from 0. Defaults to 0.
        old (str, optional): Checkpoint of this classifier behind the task before. Load it as the start, too, by
            ``load_from``. Defaults to None.
        lwf_weight (float): λ. Defaults to 0, no LwF.
        temperature (float): T of LwF. Defaults to 2.
        map_loss (dict, optional): A :class:`MapDistillation`. Defaults to None.
        position_loss (dict, optional): A :class:`PositionDistillation`. Defaults to None.
        neck (dict, optional): MMPretrain's. Defaults to None.
        data_preprocessor (dict, optional): MMPretrain's. Defaults to None.
        init_cfg (dict, optional): Defaults to None. Don't give one that names layers: it would overwrite the position
            network's initialization.

    Attributes:
        task (int): As given.
        old (FrozenModel): The old network. Checkpoints don't have it: a resumed run reads it again.

    Raises:
        UserError: If an argument is out of range, the head lacks a class, images are mixed, there is something to
            distill in a later task and no old network, or the old network has other weights; before training, if images
            are of other tasks.
    """

    def __init__(self, backbone: dict, head: dict, tasks: Sequence[Sequence[int]], task: int = 0,
                 old: str | None = None, lwf_weight: float = 0., temperature: float = 2., map_loss: dict | None = None,
                 position_loss: dict | None = None, neck: dict | None = None, data_preprocessor: dict | None = None,
                 init_cfg: dict | None = None) -> None:
        super().__init__(backbone, neck=neck, head=head, data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        check_tasks('DistilledClassifier', tasks)
        if type(task) is not int or not 0 <= task < len(tasks):
            raise UserError(f'task of DistilledClassifier must be from 0 to {len(tasks) - 1}, got {task!r}')
        check_positive(temperature=temperature)
        if lwf_weight != 0:
            check_positive(lwf_weight=lwf_weight)
        if not isinstance(self.backbone, PerViT):
            raise UserError(f'backbone of DistilledClassifier must be a PerViT, got {type(self.backbone).__name__}')
        if getattr(self.data_preprocessor, 'batch_augments', None) is not None:
            raise UserError('batch_augments of data_preprocessor, such as Mixup, must be left out of a '
                            'DistilledClassifier: its loss is over the classes of one task, and reads whole labels')
        classes = self.head.num_classes
        if max(map(max, tasks)) >= classes:
            raise UserError(f'num_classes of the head must be above all classes of tasks, got {classes} and '
                            f'{max(map(max, tasks))}')
        self.task = task
        self.lwf_weight, self.temperature = lwf_weight, temperature
        self.map_loss = None if map_loss is None else MODELS.build(map_loss)
        self.position_loss = None if position_loss is None else MODELS.build(position_loss)
        self.classes = list(tasks[task])
        self.old_classes = [one for earlier in tasks[:task] for one in earlier]
        places = torch.full((classes, ), -1)
        places[self.classes] = torch.arange(len(self.classes))
        self.register_buffer('places', places, persistent=False)
        distills = lwf_weight or self.map_loss is not None or self.position_loss is not None
        if (old is not None) != bool(task and distills):
            raise UserError('old of DistilledClassifier must be the checkpoint of the task before if task is above 0 '
                            f'and there is a loss to distill by, and None otherwise, got old={old!r}, task={task} and '
                            f'{"such" if distills else "no such"} a loss')
        self.old = FrozenModel(None if old is None else self._read_old(old))

    def _read_old(self, path: str) -> ImageClassifier:
        """A copy of this classifier with the weights of a checkpoint."""
        model = ImageClassifier(*(copy.deepcopy(part) for part in (self.backbone, self.neck, self.head)))
        with told(f'old={path!r} is of another network than the config', RuntimeError):
            model.load_state_dict(read_classifier(path))
        return model

    def check_pipeline(self, dataset) -> None:
        """Check ahead of training that all images are of the task.

        Args:
            dataset (BaseDataset): Of training.

        Raises:
            UserError: If there are images of other classes.
        """
        while not hasattr(dataset, 'get_gt_labels') and hasattr(dataset, 'dataset'):
            dataset = dataset.dataset
        found = sorted(set(map(int, dataset.get_gt_labels())))
        if not set(found) <= set(self.classes):
            raise UserError(f'train_dataloader.dataset has images of the classes {found}, and the task has '
                            f'{self.classes}: wrap it in PerViTChosenClasses with these classes')

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            inputs (Tensor): ``(B, C, h, w)``.
            data_samples (list[DataSample]): With ``gt_label``, of classes of the task.

        Returns:
            dict[str, Tensor]: ``loss``, the cross-entropy of the task; in later tasks ``lwf_loss``, ``map_loss`` and
            ``position_loss`` with their options.
        """
        kept = {} if self.map_loss is None else self.map_loss.recorded(self.backbone)
        with self._record(self.backbone, kept) as new:
            scores = self.head(self.extract_feat(inputs))
        labels = self.places[torch.cat([sample.gt_label for sample in data_samples])]
        losses = dict(loss=self.head.loss_module(scores[:, self.classes], labels, avg_factor=len(labels)))
        if self.old.model is None:
            return losses
        if self.lwf_weight or self.map_loss is not None:
            with self._record(self.old.model.backbone, kept) as old:
                old_scores = self.old(inputs)
        if self.lwf_weight:
            log_new, log_old = ((logits[:, self.old_classes] / self.temperature).log_softmax(1)
                                for logits in (scores, old_scores))
            losses['lwf_loss'] = self.lwf_weight * F.kl_div(log_new, log_old, log_target=True, reduction='batchmean')
        if self.map_loss is not None:
            losses['map_loss'] = self.map_loss(old, new)
        if self.position_loss is not None:
            with torch.no_grad():
                before = self.old.model.backbone.position_terms(new[0].hw_shape)[:len(new)]
            losses['position_loss'] = self.position_loss(before, [record.log_position for record in new])
        return losses

    def _record(self, backbone: PerViT, kept: dict):
        """Record the blocks of a backbone if a loss asks for them."""
        if self.old.model is None or (self.map_loss is None and self.position_loss is None):
            return nullcontext()
        return record_blocks(backbone, **kept)
