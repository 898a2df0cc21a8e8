"""What a report needs of one model: a study, and what its weights and labels alone tell."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.model import initialize
from torch import Tensor

from ...analysis.logit_cam import logit_cam
from ...analysis.nonlocality import position_nonlocality
from ...analysis.plan import MOST_IMAGES, Plan
from ...analysis.position_maps import draw_position_maps
from ...analysis.study import Study, study_model
from ...evaluation.single_tokens import SingleTokens, single_token_accuracy
from ...models import PerViT
from ...models.init_rules import rule_name
from ...utils.errors import UserError
from ..building import build
from ..subject import Images, Subject


@dataclass
class Case:
    """One model of a report.

    Attributes:
        name (str): Of the zoo, or of the config, and of the checkpoint where both models have one config.
        kind (str): Class of the backbone.
        study (Study): Measures on images.
        rgb (np.ndarray): The images, ``(B, h, w, 3)`` uint8.
        names (list[str]): Their names.
        labels (list[int], optional): Their classes.
        position_picture (np.ndarray, optional): Learned Φp of all blocks and heads.
        nonlocality (list[np.ndarray], optional): ``(nH,)`` for each block, from the weights.
        initial_nonlocality (list[np.ndarray], optional): The same after initialization.
        single_tokens (SingleTokens, optional): Accuracy of single tokens.
        cam (Tensor, optional): Logits of each token for the shown images and their highest class, ``(shown, H, W)``.
        predicted (list[str]): Highest class of each shown image.
        skipped (dict[str, str]): Name of a figure to the reason why there is none.
    """
    name: str
    kind: str
    study: Study
    rgb: np.ndarray
    names: list[str]
    labels: list[int] | None
    skipped: dict[str, str]
    position_picture: np.ndarray | None = None
    nonlocality: list[np.ndarray] | None = None
    initial_nonlocality: list[np.ndarray] | None = None
    single_tokens: SingleTokens | None = None
    cam: Tensor | None = None
    predicted: Sequence[str] = ()


def make_case(subject: Subject, images: Images, plan: Plan, shown: int = 4, blocks: Sequence[int] | None = None,
              progress: Callable[[], Any] = lambda: None) -> Case:
    """Measure one model.

    Args:
        subject (Subject): The model.
        images (Images): Images for it.
        plan (Plan): Of the model on these images, normalized.
        shown (int): The first so many get pictures. Defaults to 4.
        blocks (Sequence[int], optional): Blocks whose maps are shown; see :func:`pervit_mm.analysis.study_model`.
        progress (Callable): Called after each step, ``plan.steps + 1`` times.

    Returns:
        Case: What was measured.

    Raises:
        UserError: As :func:`pervit_mm.analysis.study_model`.
    """
    inputs, backbone = subject.normalize(images.pixels), subject.backbone
    study = study_model(subject.model, inputs, shown, blocks, progress=progress, plan=plan)
    labels = None if images.labels is None else images.labels.tolist()
    case = Case(subject.name, type(backbone).__name__, study, images.rgb(), images.names, labels, dict(study.skipped))
    if isinstance(backbone, PerViT) and 'position' not in case.skipped:
        case.position_picture = draw_position_maps(backbone)
        case.nonlocality = [values.cpu().numpy() for values in position_nonlocality(backbone)]
        case.initial_nonlocality = initial_nonlocality(subject)
    _see_single_tokens(case, subject, images, inputs, shown)
    progress()
    return case


def initial_nonlocality(subject: Subject) -> list[np.ndarray]:
    """Nonlocality of a newly initialized backbone of the same config, without pretrained weights.

    The paper's initialization of Φp has no random part. Others are drawn with seed 0.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = build(dict(subject.cfg.model.backbone), subject.cfg.get('default_scope'))
        fresh.init_cfg = [rule for rule in fresh.init_cfg if rule_name(rule) != 'Pretrained']
        initialize(fresh, fresh.init_cfg)
    return [values.numpy() for values in position_nonlocality(fresh.eval())]


def _see_single_tokens(case: Case, subject: Subject, images: Images, inputs: Tensor, shown: int) -> None:
    """Accuracy of single tokens and the logit CAM, or the reason why there is none."""
    if not subject.is_classifier:
        case.skipped['single tokens'] = 'The model is no classifier, so single tokens have no class.'
        return
    try:
        with torch.no_grad():
            cam = logit_cam(subject.model, inputs[:shown])
    except UserError as error:  # the equality holds for some models alone; the message says why not for this one
        case.skipped['single tokens'] = f'{str(error)[0].upper()}{str(error)[1:]}.'
        return
    highest = cam.mean(dim=(2, 3)).argmax(dim=1)
    case.cam = cam[torch.arange(len(cam)), highest].cpu()
    classes = subject.classes
    case.predicted = [classes[i] if classes else f'class {i}' for i in highest.tolist()]
    if images.labels is None:
        case.skipped['token accuracy'] = 'The images have no labels, so there is no accuracy.'
        return
    batches = zip(inputs.split(MOST_IMAGES), images.labels.split(MOST_IMAGES))
    case.single_tokens = single_token_accuracy(subject.model, batches)
