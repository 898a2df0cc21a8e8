"""Weights for a model, with one line that says which fit."""
import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from ..utils.errors import UserError

# A line of torch's error, which has one for each weight of another shape.
_OTHER_SHAPE = re.compile(r'size mismatch for (\S+): copying a param with shape torch\.Size\(\[(.*?)\]\) from '
                          r'checkpoint, the shape in current model is torch\.Size\(\[(.*?)\]\)')


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
    weights = OrderedDict((key, value) for key, value in state.items() if isinstance(value, Tensor))
    weights._metadata = getattr(state, '_metadata', OrderedDict())
    known = any(key in own for key in weights)
    missing, unexpected, shapes = _load(model, weights) if known else ([], [], [])
    count = len(model.state_dict())
    if not known or len(shapes) + len(missing) == count:
        begin = sorted({str(key).split('.')[0] for key in state})
        raise UserError(f"no weight of {type(model).__name__} is in '{source}', whose names begin with "
                        f'{", ".join(begin[:6]) or "nothing: it holds no tensor"}')
    # BatchNorm counted no batches in checkpoints of old.
    missing = [key for key in missing if not key.endswith('num_batches_tracked')]
    if strict and (shapes or missing or unexpected):
        problems = shapes or [f'{key} is not in it' for key in missing] + [
            f'{key} is not of this model' for key in unexpected]
        raise UserError(f"'{source}' holds the weights of another model: {_first(problems)}. Give a checkpoint of this "
                        'config, or the config that it was trained with')
    loaded = count - len(missing) - len(shapes)
    logger.info(f"{type(model).__name__}: {loaded} of {count} tensors loaded from '{source}'; "
                f'missing there, left as initialized: {_first(missing) or "none"}; of another shape, left as '
                f'initialized: {_first(shapes) or "none"}; unexpected there, not used: {_first(unexpected) or "none"}')


def _load(model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Load what fits, after the model's own hooks: MMPretrain's transformers resize their position embeddings there.

    Args:
        model (nn.Module): Gets the weights.
        weights (Mapping[str, Tensor]): By name.

    Returns:
        tuple[list[str], list[str], list[str]]: Names that are missing, names that are unexpected, and for each weight
        of another shape what its shapes are.
    """
    names = []
    hook = model.register_load_state_dict_post_hook(
        lambda _, found: names.extend((list(found.missing_keys), list(found.unexpected_keys))))
    shapes = []
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # torch says so last, when all that fits is loaded
        for line in str(error).split('\n\t')[1:]:
            match = _OTHER_SHAPE.search(line)
            if match is None:
                raise
            key, *sizes = match.groups()
            there, here = (tuple(map(int, filter(None, size.split(', ')))) for size in sizes)
            shapes.append(f'{key} is {there} there and {here} here')
    finally:
        hook.remove()
    return *names, shapes


def _first(items: list[str]) -> str:
    """The first four, and how many more."""
    return '; '.join(items[:4]) + (f' and {len(items) - 4} more' if len(items) > 4 else '')
