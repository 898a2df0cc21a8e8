"""Sizes of PerViT, and the checks on its options."""
from collections.abc import Sequence
from typing import Any

from mmengine.registry import MODELS, Registry
from torch import Tensor

from ..utils.errors import UserError, UserTypeError

#: Sizes of the paper, and ``nano`` for small machines and small images (stride 4).
ARCH_ZOO: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ['n', 'nano'],
        dict(embed_dims=(48, 64, 80, 96), depths=(1, 1, 3, 1), num_heads=4, stem_channels=(24, ))),
    **dict.fromkeys(
        ['t', 'tiny'],
        dict(embed_dims=(128, 192, 224, 280), depths=(2, 2, 6, 2), num_heads=4, stem_channels=(48, 64, 96))),
    **dict.fromkeys(
        ['s', 'small'],
        dict(embed_dims=(272, 320, 368, 464), depths=(2, 2, 6, 2), num_heads=8, stem_channels=(64, 128, 192))),
    **dict.fromkeys(
        ['m', 'medium'],
        dict(embed_dims=(312, 468, 540, 684), depths=(2, 2, 6, 2), num_heads=12, stem_channels=(64, 192, 256))),
}
ESSENTIAL_KEYS = {'embed_dims', 'depths', 'num_heads', 'stem_channels'}
OPTIONAL_KEYS = {'mlp_ratio', 'position_channels'}


def _positive_ints(key: str, value: Any) -> tuple[int, ...]:
    """Check a sequence of widths or depths; empty is fine."""
    if not isinstance(value, (tuple, list)) or not all(type(v) is int and v > 0 for v in value):
        raise UserError(f'arch[{key!r}] must be a sequence of positive integers, got {value!r}')
    return tuple(value)


def resolve_arch(arch: str | dict) -> dict[str, Any]:
    """Turn the name of a size, or a dict, into a checked dict.

    Args:
        arch (str | dict): A name of :data:`ARCH_ZOO`, or a dict with

            - **embed_dims** (Sequence[int]): Width of each stage, a multiple of ``num_heads``.
            - **depths** (Sequence[int]): Blocks in each stage.
            - **num_heads** (int): Heads, the same in every block.
            - **stem_channels** (Sequence[int]): Output channels of the stem's stride-2 convolutions except the
              last, which has ``embed_dims[0]``. k entries give an output stride of 2^(k+1).
            - **mlp_ratio** (float): Hidden width of the FFN over its input width. Every FFN must be at least
              1 wide. Defaults to 4.
            - **position_channels** (int): Channels D of the projected distances. Defaults to 4 per head.

    Returns:
        dict: The same with all keys.

    Raises:
        TypeError: If ``arch`` is neither.
        UserError: If a name or key is unknown, a key is missing, or a value is not allowed.
    """
    if isinstance(arch, str):
        if arch.lower() not in ARCH_ZOO:
            raise UserError(f'arch must be one of {sorted(ARCH_ZOO)} or a dict, got {arch!r}')
        arch = ARCH_ZOO[arch.lower()]
    elif not isinstance(arch, dict):
        raise UserTypeError(f'arch must be a str or a dict, got {type(arch).__name__}')
    unknown = sorted(map(str, set(arch) - ESSENTIAL_KEYS - OPTIONAL_KEYS))
    missing = sorted(ESSENTIAL_KEYS - set(arch))
    if unknown or missing:
        raise UserError(f'arch has unknown keys {unknown} and misses {missing}; it needs '
                        f'{sorted(ESSENTIAL_KEYS)} and may have {sorted(OPTIONAL_KEYS)}')
    widths, depths, stem = (
        _positive_ints(key, arch[key]) for key in ('embed_dims', 'depths', 'stem_channels'))
    heads = arch['num_heads']
    if type(heads) is not int or heads < 1:
        raise UserError(f"arch['num_heads'] must be a positive integer, got {heads!r}")
    if not widths or len(widths) != len(depths):
        raise UserError("arch['embed_dims'] and arch['depths'] must have one entry for each stage, got "
                        f'{widths} and {depths}')
    for width in widths:
        if width % heads:
            raise UserError(f"every width in arch['embed_dims'] must be a multiple of num_heads={heads}, got "
                            f'{width}; the nearest are {width // heads * heads} and {(width // heads + 1) * heads}')
    mlp_ratio = arch.get('mlp_ratio', 4)
    if type(mlp_ratio) not in (int, float) or not 1 <= mlp_ratio * min(widths) < float('inf'):
        raise UserError("arch['mlp_ratio'] must be a finite number that gives every FFN a hidden width of at least 1, "
                        f'so at least 1 / {min(widths)}, got {mlp_ratio!r}')
    channels = arch.get('position_channels', 4 * heads)
    if type(channels) is not int or channels < 1:
        raise UserError(f"arch['position_channels'] must be a positive integer, got {channels!r}")
    return dict(embed_dims=widths, depths=depths, num_heads=heads, stem_channels=stem,
                mlp_ratio=mlp_ratio, position_channels=channels)


def resolve_indices(name: str, indices: int | Sequence[int], length: int) -> tuple[int, ...]:
    """Turn block indices, negative ones counted from the end, into an ascending tuple.

    Args:
        name (str): Argument name, for the message.
        indices (int | Sequence[int]): One or several indices; never changed.
        length (int): Number of blocks.

    Returns:
        tuple[int, ...]: Each in ``[0, length)``.

    Raises:
        TypeError: If an index is not an integer.
        UserError: If an index is out of range, repeated, or out of order.
    """
    given = (indices, ) if type(indices) is int else indices
    if not isinstance(given, (tuple, list)) or not all(type(i) is int for i in given):
        raise UserTypeError(f'{name} must be an int or a sequence of int, got {indices!r}')
    for index in given:
        if not -length <= index < length:
            raise UserError(f'{name} must be in [{-length}, {length - 1}] for {length} blocks, got {index}')
    resolved = tuple(index % length for index in given)
    if list(resolved) != sorted(set(resolved)):
        raise UserError(f'{name} must be ascending without repetition, got {indices!r}, which is {resolved}')
    return resolved


def to_pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """Turn an int or a pair (h, w) into a pair of positive ints; UserError with ``name`` otherwise."""
    pair = (value, value) if type(value) is int else value
    if (not isinstance(pair, (tuple, list)) or len(pair) != 2
            or not all(type(v) is int and v > 0 for v in pair)):
        raise UserError(f'{name} must be a positive int or a pair (h, w) of them, got {value!r}')
    return tuple(pair)


def check_images(images: Tensor, channels: int) -> None:
    """Check what a backbone gets.

    Args:
        images (Tensor): ``(B, channels, h, w)`` in floating point.
        channels (int): ``in_channels`` of the backbone.

    Raises:
        UserTypeError: If they are no tensor.
        UserError: If they have another shape or type of number.
    """
    if not isinstance(images, Tensor):
        raise UserTypeError(f'images must be a tensor (B, {channels}, h, w), got {type(images).__name__}')
    if images.dim() != 4 or images.shape[1] != channels:
        raise UserError(f'images must be (B, {channels}, h, w), because in_channels of the backbone is {channels}, got '
                        f'{tuple(images.shape)}: give such images, or build the backbone with other in_channels')
    if not images.is_floating_point():
        raise UserError(f'images must be in floating point, got {images.dtype}: normalize them, as the '
                        'data_preprocessor of a model does')


#: What a backbone may return, see :class:`PerViT`.
OUT_TYPES = ('avg_featmap', 'featmap', 'raw')


def check_type(registry: Registry, cfg: dict, name: str) -> None:
    """Check that a config dict names a type of a registry; MMEngine and MMCV speak of None where it doesn't.

    Args:
        registry (Registry): One of MMEngine's root registries; the scope of the moment counts as well.
        cfg (dict): With ``type``, a name or a class.
        name (str): Where it stands, for the message.

    Raises:
        UserTypeError: If ``cfg`` is no dict.
        UserError: If it has no type, or none of the registry.
    """
    if not isinstance(cfg, dict):
        raise UserTypeError(f"{name} must be a dict with a type, got {cfg!r}")
    kind = cfg.get('type')
    with registry.switch_scope_and_registry(None) as here:
        if kind is None or (isinstance(kind, str) and here.get(kind) is None):
            raise UserError(f"{name}['type'] must be a registered {registry.name}, got {kind!r}")


def check_options(depths: Sequence[int], *, norm_cfg: dict, act_cfg: dict, out_type: str, drop_rate: float,
                  drop_path_rate: float, frozen_stages: int, position_cache_bytes: int, with_cp: bool) -> None:
    """Check those options of a backbone that are a number in a range or one of several words.

    Args:
        depths (Sequence[int]): Blocks in each stage.
        norm_cfg, act_cfg, out_type, drop_rate, drop_path_rate, frozen_stages, position_cache_bytes, with_cp: See
            :class:`PerViT`.

    Raises:
        UserError: With the argument's name, the value, and what is allowed.
    """
    check_type(MODELS, norm_cfg, 'norm_cfg')
    check_type(MODELS, act_cfg, 'act_cfg')
    if out_type not in OUT_TYPES:
        raise UserError(f'out_type must be one of {OUT_TYPES}, got {out_type!r}')
    for name, rate in (('drop_rate', drop_rate), ('drop_path_rate', drop_path_rate)):
        if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
            raise UserError(f'{name} must be in [0, 1), got {rate!r}')
    if type(frozen_stages) is not int or not -1 <= frozen_stages <= len(depths):
        raise UserError(f'frozen_stages must be in [-1, {len(depths)}], got {frozen_stages!r}')
    if type(position_cache_bytes) is not int or position_cache_bytes < 0:
        raise UserError('position_cache_bytes must be a number of bytes of at least 0, which keeps nothing, got '
                        f'{position_cache_bytes!r}')
    if not isinstance(with_cp, bool):
        raise UserError(f'with_cp must be True or False, got {with_cp!r}')


#: Tokens of a window, at most: 64 x 64, whose log Φp takes 67 MB for each head.
MAX_WINDOW_TOKENS = 64 * 64


def resolve_windows(window_size: int | Sequence[int] | str | None, global_attn_indexes: int | Sequence[int],
                    num_blocks: int, pretrain_hw: tuple[int, int]) -> list[tuple[int, int] | None]:
    """Turn the window options of a backbone into one window for each block.

    Args:
        window_size (int | Sequence[int] | str, optional): Side in tokens, a pair (h, w), or 'pretrain'; None attends
            globally.
        global_attn_indexes (int | Sequence[int]): Blocks that attend globally all the same.
        num_blocks (int): Number of blocks.
        pretrain_hw (tuple[int, int]): Pretraining grid (H, W), which 'pretrain' stands for.

    Returns:
        list[tuple[int, int], optional]: Window (h, w) of each block; None attends globally.

    Raises:
        TypeError: If an index is not an integer.
        UserError: If a window or an index is not allowed, or global blocks are named without a window.
    """
    global_blocks = resolve_indices('global_attn_indexes', global_attn_indexes, num_blocks)
    if window_size is None:
        if global_blocks:
            raise UserError(f'global_attn_indexes={global_attn_indexes!r} needs a window_size; without one every block '
                            'attends globally')
        return [None] * num_blocks
    if isinstance(window_size, str) and window_size != 'pretrain':
        raise UserError(f"window_size must be 'pretrain', a positive int, a pair (h, w) of them or None, got "
                        f'{window_size!r}')
    window = pretrain_hw if window_size == 'pretrain' else to_pair('window_size', window_size)
    if window[0] * window[1] > MAX_WINDOW_TOKENS and window != tuple(pretrain_hw):
        raise UserError(f'window_size={window_size!r} is in tokens, and log Φp of {window[0]} x {window[1]} of them '
                        f'takes {4e-9 * (window[0] * window[1])**2:.1f} GB for each head; at most {MAX_WINDOW_TOKENS} '
                        'tokens are allowed, or those of the pretraining grid: take a smaller window, or None to '
                        'attend globally')
    return [None if i in global_blocks else window for i in range(num_blocks)]
