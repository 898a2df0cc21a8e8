"""The model of a config, with weights, none missing and none left over; and the size of its images."""
from collections.abc import Mapping

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from .models.arch import to_pair


def build(config: dict, scope: str | None) -> nn.Module:
    """Build a model.

    Args:
        config (dict): Of the model.
        scope (str, optional): The config's ``default_scope``, whose toolbox is imported; None for the root's types.

    Returns:
        nn.Module: Not initialized.

    Raises:
        ValueError: If no registry has one of the types.
    """
    try:
        with DefaultScope.overwrite_default_scope(scope):
            return MODELS.build(config)
    except KeyError as error:  # a type that no registry has, as where its toolbox isn't installed
        raise ValueError(f'the model of the config cannot be built: {error.args[0]}') from error


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load weights, none missing and none left over.

    Args:
        model (nn.Module): Gets them.
        state (Mapping[str, Tensor]): The weights.
        source (str): Where they are from, for the message.

    Raises:
        ValueError: Naming what is missing, left over or of another shape.
    """
    own = model.state_dict()
    problems = [f'{key} is {tuple(state[key].shape)} there and {tuple(own[key].shape)} in the config'
                for key in own if key in state and state[key].shape != own[key].shape]
    if not problems:
        missing, unexpected = model.load_state_dict(state, strict=False)
        problems = [f'{key} is not in it' for key in missing] + [f'{key} is not in the config' for key in unexpected]
    if problems:
        more = f' and {len(problems) - 4} more' if len(problems) > 4 else ''
        raise ValueError(f"{source} is not of this config: {'; '.join(problems[:4])}{more}")


def build_model(cfg: Config, state: Mapping[str, Tensor]) -> nn.Module:
    """Build the model of a config in eval mode, with weights, none missing and none left over.

    Args:
        cfg (Config): Of any toolbox.
        state (Mapping[str, Tensor]): The weights.

    Returns:
        nn.Module: On the CPU.

    Raises:
        ValueError: If the model cannot be built, or the weights are of another one.
    """
    model = build(cfg.model, cfg.get('default_scope', 'mmengine'))
    load_strictly(model, state, 'checkpoint')
    model.eval()  # which some of MMPretrain's backbones don't return from
    return model


def image_size_of(cfg: Config) -> tuple[int, int] | None:
    """Image size that a config tests with.

    Args:
        cfg (Config): The last transform of its test pipeline that gives one size to every image counts (CenterCrop,
            or Resize without ``keep_ratio``); without one, for MMPretrain, ``model.backbone.img_size``.

    Returns:
        tuple[int, int]: (h, w) in pixels; None if images differ in size, as they do for detection and segmentation.

    Raises:
        TypeError, ValueError: If ``img_size`` isn't a size.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    for step in reversed(dataset.get('pipeline') or []):
        kind = str(step.get('type')).split('.')[-1]
        size = step.get({'CenterCrop': 'crop_size', 'Resize': 'scale'}.get(kind))
        if size is not None and not step.get('keep_ratio'):
            return (size, size) if isinstance(size, int) else (size[1], size[0])  # the transforms say (w, h)
    if cfg.get('default_scope') == 'mmpretrain':
        return to_pair('model.backbone.img_size', (cfg.model.get('backbone') or {}).get('img_size', 224))
    return None
