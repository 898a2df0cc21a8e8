"""The authors' checkpoint keys and ours."""
import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from .models.arch import resolve_arch

#: (theirs, ours) for what one block holds. ``{i}`` is the block.
_BLOCK = (
    ('blocks.{i}.norm1', 'backbone.blocks.{i}.norm1', 'wb'),
    ('blocks.{i}.conv.proj', 'backbone.blocks.{i}.cpe.conv', 'wb'),
    ('blocks.{i}.attn.to_qkv', 'backbone.blocks.{i}.attn.qkv', 'w'),
    ('blocks.{i}.attn.proj', 'backbone.blocks.{i}.attn.proj', 'wb'),
    ('blocks.{i}.attn.activation.conv1', 'backbone.blocks.{i}.attn.position.conv1', 'wb'),
    ('blocks.{i}.attn.activation.gn1', 'backbone.blocks.{i}.attn.position.norm1', 'wb'),
    ('blocks.{i}.attn.activation.conv2', 'backbone.blocks.{i}.attn.position.conv2', 'wb'),
    ('blocks.{i}.attn.activation.gn2', 'backbone.blocks.{i}.attn.position.norm2', 'wb'),
    ('blocks.{i}.norm2', 'backbone.blocks.{i}.norm2', 'wb'),
    ('blocks.{i}.mlp.fc1', 'backbone.blocks.{i}.ffn.fc1', 'wb'),
    ('blocks.{i}.mlp.fc2', 'backbone.blocks.{i}.ffn.fc2', 'wb'),
)
_TENSORS = {
    'w': ('weight', ),
    'wb': ('weight', 'bias'),
    'bn': ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
}


def key_pairs() -> list[tuple[str, str]]:
    """Every key of an official checkpoint beside ours; all three sizes have the same keys.

    Returns:
        list[tuple[str, str]]: ``(theirs, ours)``, ours as ``ImageClassifier`` of configs/pervit_*.py has them.
    """
    arch = resolve_arch('tiny')
    modules = []
    for i in range(len(arch['stem_channels']) + 1):
        modules.append((f'conv_layers.conv_layers.{i}.0', f'backbone.stem.layers.{i}.conv', 'wb'))
        modules.append((f'conv_layers.conv_layers.{i}.1', f'backbone.stem.layers.{i}.norm', 'bn'))
    modules.append(('conv_layers.conv1x1', 'backbone.stem.proj', 'wb'))
    modules.append(('rpe_proj', 'backbone.position_proj', 'wb'))
    num_layers = sum(arch['depths'])
    stage_ends = [sum(arch['depths'][:k]) - 1 for k in range(1, len(arch['depths']))]
    for i in range(num_layers):
        modules += [(theirs.format(i=i), ours.format(i=i), kind) for theirs, ours, kind in _BLOCK]
        if i in stage_ends:
            modules.append((f'blocks.{i}.res_path', f'backbone.blocks.{i}.shortcut', 'wb'))
    modules.append(('norm', f'backbone.norm{num_layers - 1}', 'wb'))
    modules.append(('head', 'head.fc', 'wb'))
    return [(f'{theirs}.{name}', f'{ours}.{name}') for theirs, ours, kind in modules
            for name in _TENSORS[kind]]


def _natural(keys: Iterable[str]) -> list[str]:
    """Sort keys with block 2 ahead of block 10."""
    return sorted(keys, key=lambda key: [int(p) if p.isdigit() else p for p in re.split(r'(\d+)', key)])


def _rename(state_dict: Mapping[str, Tensor], names: dict[str, str], layout: str) -> dict[str, Tensor]:
    unknown, missing = _natural(set(state_dict) - set(names)), _natural(set(names) - set(state_dict))
    if unknown or missing:
        raise ValueError(f'state_dict is not a PerViT checkpoint in {layout}: '
                         f'unknown keys {unknown or "none"}, missing keys {missing or "none"}')
    return {names[key]: tensor for key, tensor in state_dict.items()}


def from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of an official PerViT state dict to those of MMPretrain's ``ImageClassifier``.

    The authors' file is a dict whose entry ``model`` is the state dict.

    Args:
        state_dict (Mapping[str, Tensor]): In the authors' key layout, tiny, small or medium.

    Returns:
        dict[str, Tensor]: The same tensors under the names that configs/pervit_*.py load strictly.

    Raises:
        ValueError: Naming every unknown and every missing key.
    """
    return _rename(state_dict, dict(key_pairs()), "the authors' key layout")


def to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of :func:`from_official`.

    Args:
        state_dict (Mapping[str, Tensor]): Of an ``ImageClassifier`` with PerViT tiny, small or medium.

    Returns:
        dict[str, Tensor]: The same tensors in the authors' key layout.

    Raises:
        ValueError: Naming every unknown and every missing key.
    """
    return _rename(state_dict, {ours: theirs for theirs, ours in key_pairs()}, "pervit_mm's key layout")
