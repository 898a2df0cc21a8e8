"""Weights for a model, with one line that says which fit."""
from collections import OrderedDict
from collections.abc import Mapping

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from ..utils.errors import UserError


def take_weights(model: nn.Module, state: Mapping[str, Tensor], source: str, strict: bool,
                 logger: MMLogger) -> None:
    """Load weights into a model, and say what was loaded.

    Args:
        model (nn.Module): Gets them.
        state (Mapping[str, Tensor]): Weights and buffers by name.
        source (str): Where they are from, for messages.
        strict (bool): Whether all have to fit.
        logger (MMLogger): Gets one line.

    Raises:
        UserError: If nothing fits; if ``strict``, if anything doesn't.
    """
    own = model.state_dict()
    for key, value in state.items():
        if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_meta or value.is_quantized):
            raise UserError(f"'{source}': {key!r} is sparse, quantized or without values (meta), and weights are dense")
    shapes = [f'{key} is {tuple(state[key].shape)} there and {tuple(own[key].shape)} here'
              for key in own if isinstance(state.get(key), Tensor) and state[key].shape != own[key].shape]
    if strict and shapes:
        raise UserError(f"'{source}' holds the weights of another model: {_first(shapes)}")
    fitting = OrderedDict((key, value) for key, value in state.items()
                          if isinstance(value, Tensor) and (key not in own or value.shape == own[key].shape))
    fitting._metadata = getattr(state, '_metadata', OrderedDict())
    if not any(key in own for key in fitting):
        begin = sorted({str(key).split('.')[0] for key in state})
        raise UserError(f"no weight of {type(model).__name__} is in '{source}', whose names begin with "
                        f'{", ".join(begin[:6]) or "nothing: it holds no tensor"}')
    result = model.load_state_dict(fitting, strict=False)
    # BatchNorm counted no batches in checkpoints of old.
    missing = [key for key in result.missing_keys if key not in state and not key.endswith('num_batches_tracked')]
    unexpected = list(result.unexpected_keys)
    if strict and (missing or unexpected):
        problems = [f'{key} is not in it' for key in missing] + [f'{key} is not of this model' for key in unexpected]
        raise UserError(f"'{source}' holds the weights of another model: {_first(problems)}")
    count = len(model.state_dict())
    loaded = count - len(missing) - len(shapes)
    logger.info(f"{type(model).__name__}: {loaded} of {count} tensors loaded from '{source}'; "
                f'missing there, left as initialized: {_first(missing) or "none"}; of another shape, left as '
                f'initialized: {_first(shapes) or "none"}; unexpected there, not used: {_first(unexpected) or "none"}')


def _first(items: list[str]) -> str:
    """The first four, and how many more."""
    return '; '.join(items[:4]) + (f' and {len(items) - 4} more' if len(items) > 4 else '')
