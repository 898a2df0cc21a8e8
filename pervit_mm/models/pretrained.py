"""Pretrained weights by ``init_cfg``, with a report: nobody trains from scratch without knowing."""
from collections import Counter

from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from ..utils.errors import UserError
from ..utils.refusals import reading
from .deployment import is_deployed_state
from .position import frozen_log_positions


def fit_input_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Fit the first convolution to images with another number of channels.

    A weight for one channel is spread evenly over the new channels. A weight for several channels is summed up to fit
    one channel. Both give a gray image the same output as before.

    Args:
        weight (Tensor): ``(C, c, k, k)``.
        in_channels (int): Number of channels wanted.

    Returns:
        Tensor: ``(C, in_channels, k, k)`` if c or ``in_channels`` is 1, or else the weight as it was.
    """
    if weight.shape[1] == 1:
        return weight.expand(-1, in_channels, -1, -1) / in_channels
    return weight.sum(1, keepdim=True) if in_channels == 1 else weight


def load_pretrained(module: nn.Module, checkpoint: str, prefix: str | None = None, map_location: str = 'cpu') -> None:
    """Load those weights of a checkpoint that a backbone has, and log which were loaded, missing and not used.

    Args:
        module (nn.Module): The backbone.
        checkpoint (str): Path or URL, whatever MMEngine's loader takes.
        prefix (str, optional): What the backbone's keys in the checkpoint begin with, such as 'backbone.'. Defaults to
            None, which takes all keys as they are.
        map_location (str): Where tensors are loaded to. Defaults to 'cpu'.

    Raises:
        UserError: If nothing at all can be loaded, a tensor has another shape, or the checkpoint is a deployed one.
    """
    with reading(checkpoint):
        content = CheckpointLoader.load_checkpoint(checkpoint, map_location=map_location, logger='current')
    state = content.get('state_dict', content)
    state = {key.removeprefix('module.'): value for key, value in state.items() if isinstance(value, Tensor)}
    if prefix:
        prefix = prefix if prefix.endswith('.') else f'{prefix}.'
        chosen = {key[len(prefix):]: value for key, value in state.items() if key.startswith(prefix)}
    else:
        chosen = state
    if is_deployed_state(chosen):
        reason = 'its Φp is frozen'
        if not frozen_log_positions(chosen):
            reason = 'BatchNorm is folded into the convolutions of its stem'
        raise UserError(f'{checkpoint} is deployed, for inference alone: {reason} and would not learn. Start from the '
                        'checkpoint that it was made of')
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - chosen.keys()), sorted(chosen.keys() - own.keys())
    name = type(module).__name__
    if len(missing) == len(own):
        starts = ', '.join(f'{key}. ({count})' for key, count in Counter(k.split('.')[0] for k in state).most_common(6))
        raise UserError(f'no weight of {name} is in {checkpoint} under prefix={prefix!r}, and training would start '
                        f'from scratch: its keys begin with {starts or "nothing, it holds no tensor"}. Set prefix in '
                        "init_cfg to what stands ahead of 'stem.', or take the checkpoint of a PerViT")
    for key in own.keys() & chosen.keys():
        if own[key].shape != chosen[key].shape and key in ('stem.layers.0.conv.weight', 'stem.proj.weight'):
            fitted = fit_input_channels(chosen[key], own[key].shape[1])
            if fitted.shape == own[key].shape:
                print_log(f'{key} is fitted from {chosen[key].shape[1]} to {own[key].shape[1]} input channels',
                          'current')
                chosen[key] = fitted
    shapes = [f'{key} is {tuple(chosen[key].shape)} there and {tuple(own[key].shape)} here'
              for key in sorted(own.keys() & chosen.keys()) if own[key].shape != chosen[key].shape]
    if shapes:
        raise UserError(f'{checkpoint} holds another {name} (arch, in_channels, position_cfg or a kernel size '
                        f'differs): {"; ".join(shapes[:5])}{" ..." if len(shapes) > 5 else ""}')
    module.load_state_dict(chosen, strict=False)
    # A run compares what is recorded there with its own preparation of images.
    module.pretrained_by = checkpoint, {'meta': content.get('meta')}
    print_log(f'{name}: {len(own) - len(missing)} of {len(own)} tensors loaded from {checkpoint}, prefix={prefix!r}; '
              f'missing there, left as initialized: {", ".join(missing) or "none"}; '
              f'unexpected there, not used: {", ".join(unexpected) or "none"}', 'current')
