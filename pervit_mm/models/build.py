"""Parts of a PerViT from their config dicts."""
import inspect

from mmengine.registry import MODELS
from torch import nn

from ..utils.errors import UserError, UserTypeError
from .arch import check_type
from .layers import ConvStem, PatchifyStem
from .position import DISTANCE_SCALES, BasePosition, check_position

_STEM_KEYS = {'conv': {'norm_cfg', 'act_cfg'}, 'patchify': set()}


def build_stem(stem_cfg: dict | None, in_channels: int, arch: dict) -> nn.Module:
    """Make the stem.

    Args:
        stem_cfg (dict, optional): ``type`` 'conv' or 'patchify', and options of that type. None is
            ``dict(type='conv')``.
        in_channels (int): Channels of the image.
        arch (dict): From :func:`resolve_arch`.

    Returns:
        nn.Module: Turns images ``(B, in_channels, h, w)`` into a map. Has ``out_stride`` and ``fuse_norm()``.

    Raises:
        UserError: If ``in_channels``, the type or a key is not allowed.
        TypeError: If ``stem_cfg`` is no dict.
    """
    if type(in_channels) is not int or in_channels < 1:
        raise UserError(f'in_channels must be a positive integer, got {in_channels!r}')
    if stem_cfg is not None and not isinstance(stem_cfg, dict):
        raise UserTypeError(f"stem_cfg must be a dict such as dict(type='conv'), or None, got {stem_cfg!r}")
    cfg = dict(stem_cfg or {})
    kind = cfg.pop('type', 'conv')
    if kind not in _STEM_KEYS:
        raise UserError(f"stem_cfg['type'] must be one of {sorted(_STEM_KEYS)}, got {kind!r}")
    if set(cfg) - _STEM_KEYS[kind]:
        raise UserError(f'stem_cfg of type {kind!r} may have {sorted(_STEM_KEYS[kind])}, got {sorted(cfg)}')
    for key in cfg:
        if cfg[key] is not None:
            check_type(MODELS, cfg[key], f'stem_cfg[{key!r}]')
    channels = (*arch['stem_channels'], arch['embed_dims'][0])
    if kind == 'patchify':
        return PatchifyStem(in_channels, channels[-1], 2**len(channels))
    return ConvStem(in_channels, channels, **cfg)


def build_position(position_cfg: dict | None, distance_scale: str, arch: dict,
                   pretrain_hw: tuple[int, int]) -> BasePosition | None:
    """Make the position module of one block.

    Args:
        position_cfg (dict, optional): Registered module and its options; without ``type`` the module is
            ``PerViTPeripheralPosition``. None makes no module.
        distance_scale (str): Handed on to modules that have this option.
        arch (dict): From :func:`resolve_arch`.
        pretrain_hw (tuple[int, int]): Pretraining grid (H, W) in tokens.

    Returns:
        BasePosition, optional: The module; None if ``position_cfg`` is None.

    Raises:
        UserError: If ``distance_scale`` is unknown, if it isn't 'grid' and the module has no such option, or if the
            module is no :class:`~pervit_mm.models.position.BasePosition`.
        TypeError: If ``position_cfg`` is no dict.
        KeyError: If the type is not registered.
    """
    if distance_scale not in DISTANCE_SCALES:
        raise UserError(f'distance_scale must be one of {DISTANCE_SCALES}, got {distance_scale!r}')
    if position_cfg is None:
        return None
    if not isinstance(position_cfg, dict):
        raise UserTypeError("position_cfg must be a dict such as dict(type='PerViTPeripheralPosition'), or None for no "
                            f'Φp, got {position_cfg!r}')
    cfg = dict(dict(type='PerViTPeripheralPosition'), **position_cfg)
    with MODELS.switch_scope_and_registry(None) as registry:
        kind = registry.get(cfg['type']) if isinstance(cfg['type'], str) else cfg['type']
    if kind is not None and 'distance_scale' in inspect.signature(kind).parameters:
        cfg.setdefault('distance_scale', distance_scale)
    elif distance_scale != 'grid':
        raise UserError(f"distance_scale={distance_scale!r} is not for position_cfg of type {cfg['type']!r}, which "
                        "has no such option; leave it at 'grid'")
    position = MODELS.build(
        dict(num_heads=arch['num_heads'], hidden_channels=arch['position_channels'], pretrain_hw=pretrain_hw, **cfg))
    check_position(position, f"position_cfg['type']={cfg['type']!r}")
    return position
