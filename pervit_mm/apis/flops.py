"""Multiply-adds of a model, attention products included."""
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from mmengine.analysis import FlopAnalyzer
from mmengine.analysis.print_helper import complexity_stats_table

from ..utils.errors import UserError


class FlopCount(NamedTuple):
    """What :func:`count_flops` found.

    Attributes:
        flops (int): Multiply-adds for one image.
        params (int): Parameters as trained, before any deployment.
        table (str): MMEngine's table of both by module, for the model as it was counted.
    """
    flops: int
    params: int
    table: str


def attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of one scaled dot product attention, for ``FlopAnalyzer.set_op_handle``.

    The two products q·kᵀ and weights·v count, which is N·M·(d + d_v) for each head. The analyzer counts other matrix
    products in the same way. Softmax and mask are left out, as everywhere in the analyzer.

    Args:
        inputs (list): The traced values of the call: q ``(..., N, d)``, k ``(..., M, d)``, v ``(..., M, d_v)`` and
            others.
        outputs (list): The traced result ``(..., N, d_v)``.

    Returns:
        int: The count.
    """
    query, _, value = (value.type().sizes() for value in inputs[:3])
    count = query[-1] + value[-1]
    for size in (*query[:-1], value[-2]):
        count *= size
    return count


def count_flops(model: nn.Module, input_shape: Sequence[int]) -> FlopCount:
    """Count a model's multiply-adds with MMEngine's analyzer.

    By itself MMEngine's analyzer doesn't count ``scaled_dot_product_attention``; here it does. A backbone that has
    ``switch_to_deploy`` is counted in the deployed form, on a copy. Position attention Φp doesn't depend on the image,
    so inference looks it up and doesn't compute it, and BatchNorm is part of the convolutions.

    Args:
        model (nn.Module): A classifier or segmentor is counted to its logits, a detector to its features
            (``extract_feat``), any other module by its forward.
        input_shape (Sequence[int]): Image shape (C, H, W).

    Returns:
        FlopCount: The counts, and MMEngine's table.

    Raises:
        UserError: If ``input_shape`` is not three positive integers.
    """
    shape = tuple(input_shape) if isinstance(input_shape, (tuple, list)) else ()
    if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise UserError(f'input_shape must be three positive integers (C, H, W), got {input_shape!r}')
    params = sum(parameter.numel() for parameter in model.parameters())
    model = deepcopy(model).cpu()
    model.eval()  # not chained, because eval() of some of MMPretrain's backbones returns None
    backbone = getattr(model, 'backbone', model)
    if hasattr(backbone, 'switch_to_deploy'):
        stride = backbone.out_stride
        backbone.switch_to_deploy([(-(-shape[1] // stride), -(-shape[2] // stride))])
    if has_feature_stage_only(model):
        model.forward = model.extract_feat
    inputs = (torch.zeros(1, *shape), )
    with torch.no_grad():
        analyzer = FlopAnalyzer(model, inputs)
        analyzer.set_op_handle('aten::scaled_dot_product_attention', attention_flops)
        # The analyzer leaves out additions and activation functions. It takes modules of frozen Φp for uncalled,
        # because they run no operation.
        analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return FlopCount(
            flops=int(analyzer.total()), params=params, table=complexity_stats_table(analyzer))


def has_feature_stage_only(model: nn.Module) -> bool:
    """Whether only the features can be traced, as for detectors, whose heads need more than images."""
    return hasattr(model, 'extract_feat') and not (hasattr(model, 'head') or hasattr(model, 'decode_head'))
