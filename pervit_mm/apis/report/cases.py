"""What a report needs of one model: a study, and what its weights and labels alone tell."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.model import initialize
from torch import Tensor

from ...analysis.logit_cam import logit_cam
from ...analysis.mosaics import place_of_query
from ...analysis.nonlocality import position_nonlocality
from ...analysis.position_maps import draw_position_maps
from ...analysis.study import MOST_IMAGES, Study, default_blocks, grids_of, study_model
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
    skipped: dict[str, str]
    position_picture: np.ndarray | None = None
    nonlocality: list[np.ndarray] | None = None
    initial_nonlocality: list[np.ndarray] | None = None
    single_tokens: SingleTokens | None = None
    cam: Tensor | None = None
    predicted: Sequence[str] = ()


def make_case(subject: Subject, images: Images, shown: int = 4, blocks: Sequence[int] | None = None,
              edges: Sequence[float] | None = None, query: tuple[int, int] | None = None,
              progress: Callable[[], Any] = lambda: None) -> Case:
    """Measure one model.

    Args:
        subject (Subject): The model.
        images (Images): Images for it.
        shown (int): The first so many get pictures. Defaults to 4.
        blocks (Sequence[int], optional): Blocks whose maps are shown; see :func:`pervit_mm.analysis.study_model`.
        edges (Sequence[float], optional): Edges of the rings in tokens. Defaults to None, those for the grid.
        query (tuple[int, int], optional): Token whose maps are shown. Defaults to None, the center.
        progress (Callable): Called after each step, :func:`pervit_mm.analysis.study.count_steps` and one more times.

    Returns:
        Case: What was measured.

    Raises:
        UserError: As :func:`pervit_mm.analysis.study_model`, or if the query lies outside the grid.
    """
    inputs, backbone = subject.normalize(images.pixels), subject.backbone
    grids = grids_of(subject.model, inputs)
    for block in default_blocks(len(grids)) if blocks is None else blocks:
        place_of_query(query, grids[min(max(block, 0), len(grids) - 1)])  # now, not after minutes; study checks blocks
    study = study_model(subject.model, inputs, shown, blocks, edges, progress)
    case = Case(subject.name, type(backbone).__name__, study, images.rgb(), images.names, dict(study.skipped))
    if isinstance(backbone, PerViT) and 'position' not in case.skipped:
        case.position_picture = draw_position_maps(backbone, query)
        case.nonlocality = [values.cpu().numpy() for values in position_nonlocality(backbone)]
        case.initial_nonlocality = initial_nonlocality(subject)
    _see_single_tokens(case, subject, images, inputs, shown)
    progress()
    return case


def initial_nonlocality(subject: Subject) -> list[np.ndarray]:
    """Nonlocality of a newly initialized backbone of the same config, without pretrained weights.

    The paper's initialization of Φp has no random part.
    """
    config = dict(subject.cfg.model.backbone)
    fresh = build(config, subject.cfg.get('default_scope'))
    fresh.init_cfg = [rule for rule in fresh.init_cfg if rule_name(rule) != 'Pretrained']
    with torch.random.fork_rng():
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
