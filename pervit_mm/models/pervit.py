"""PerViT, the backbone."""
from collections.abc import Sequence

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, update_init_info
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .arch import resolve_arch, resolve_indices, to_pair
from .build import build_position, build_stem
from .deploy import follow_checkpoint, freeze_positions
from .layers import PerViTBlock
from .position import DistanceProjection, log_position_terms
from .position_cache import PositionCache
from .pretrained import load_pretrained
from .rules import rule_name, with_peripheral_init

OUT_TYPES = ('avg_featmap', 'featmap', 'raw')


@MODELS.register_module()
class PerViT(BaseModule):
    """Peripheral Vision Transformer.

    A PyTorch implementation of `Peripheral Vision Transformer <https://arxiv.org/abs/2206.06801>`_ (NeurIPS 2022).

    Single resolution: the stem gives a grid of tokens that never shrinks. Attention is content times position, where
    the position-based attention Φp is made by a small network from the distances between tokens.

    Args:
        arch (str | dict): 'tiny', 'small', 'medium', 'nano' or a dict, see :func:`resolve_arch`. Defaults to 'tiny'.
        img_size (int | tuple[int, int]): Pretraining image size (h, w) in pixels. It fixes what Φp was trained on;
            inputs may have any size. Defaults to 224.
        in_channels (int): Channels of the image. Defaults to 3.
        out_indices (int | Sequence[int]): Blocks whose outputs are returned, negative ones counted from the end.
            Blocks behind the last one are neither run nor trained. Defaults to -1.
        out_type (str): What is returned for each of ``out_indices``. Defaults to 'avg_featmap'.

            - 'avg_featmap': mean over tokens, ``(B, C)``.
            - 'featmap': map, ``(B, C, H, W)``.
            - 'raw': tokens, ``(B, N, C)``.
        drop_rate (float): Dropout rate of attention outputs and FFNs. Defaults to 0.
        drop_path_rate (float): Stochastic depth rate of the last block; it rises linearly from 0. Defaults to 0.
        qkv_bias (bool): Whether q, k, v have a bias. Defaults to False.
        cpe (bool): Whether blocks have the conditional position encoding. Defaults to True.
        content (bool): Whether content takes part in attention; False attends by position alone. Defaults to True.
        stem_cfg (dict, optional): ``type`` 'conv' or 'patchify', and for 'conv' ``norm_cfg`` and ``act_cfg``.
            Defaults to None, which is the paper's: 'conv' with BN and ReLU.
        position_cfg (dict | None): Registered position module and its options; None for no Φp.
            Defaults to ``dict(type='PerViTPeripheralPosition')``.
        distance_scale (str): What distance means on a grid larger than the pretraining one, 'grid' or 'fixed', see
            :class:`PerViTPeripheralPosition`. Defaults to 'grid'.
        window_size (int | tuple[int, int] | str, optional): Attention within windows of this many tokens; 'pretrain'
            takes the pretraining grid. Defaults to None, global attention.
        global_attn_indexes (Sequence[int]): Blocks that attend globally all the same. Defaults to ().
        norm_cfg (dict): Norms of blocks and outputs. Defaults to ``dict(type='LN', eps=1e-6)``.
        act_cfg (dict): Activation of the FFNs. Defaults to ``dict(type='GELU')``.
        final_norm (bool): Whether each output is normed, by ``norm{i}`` for block i. Defaults to True.
        frozen_stages (int): -1 freezes nothing, 0 the stem and the distance projection, k also the blocks of the
            first k stages and the norms of their outputs. Defaults to -1.
        norm_eval (bool): Whether BatchNorm stays in eval mode in training. Defaults to False.
        with_cp (bool): Whether blocks are recomputed in backward to save memory. Defaults to False.
        position_cache_bytes (int): Φp of the grids seen last is kept between calls without gradient, up to this size.
            Defaults to 256 MiB.
        init_cfg (dict | list[dict], optional): Initialization; ``PeripheralInit`` is put ahead of rules that don't
            name it. Defaults to None, which is ``dict(type='PeripheralInit')``.

    Attributes:
        out_channels (tuple[int, ...]): Channels of each output.
        out_stride (int): Pixels for each token.
        patch_resolution (tuple[int, int]): Pretraining grid (H, W) in tokens.

    Raises:
        ValueError, TypeError: With the argument's name, the value, and what is allowed.

    Examples:
        >>> import torch
        >>> from pervit_mm.models import PerViT
        >>> model = PerViT('tiny', out_indices=(3, 11), out_type='featmap')
        >>> [tuple(x.shape) for x in model(torch.rand(1, 3, 224, 320))]
        [(1, 224, 14, 20), (1, 280, 14, 20)]
    """

    def __init__(self,
                 arch: str | dict = 'tiny',
                 img_size: int | tuple[int, int] = 224,
                 in_channels: int = 3,
                 out_indices: int | Sequence[int] = -1,
                 out_type: str = 'avg_featmap',
                 drop_rate: float = 0.,
                 drop_path_rate: float = 0.,
                 qkv_bias: bool = False,
                 cpe: bool = True,
                 content: bool = True,
                 stem_cfg: dict | None = None,
                 position_cfg: dict | None = dict(type='PerViTPeripheralPosition'),
                 distance_scale: str = 'grid',
                 window_size: int | tuple[int, int] | str | None = None,
                 global_attn_indexes: Sequence[int] = (),
                 norm_cfg: dict = dict(type='LN', eps=1e-6),
                 act_cfg: dict = dict(type='GELU'),
                 final_norm: bool = True,
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 position_cache_bytes: int = 256 * 2**20,
                 init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg=with_peripheral_init(init_cfg))
        arch = resolve_arch(arch)
        self.arch_settings = arch
        self.depths, self.num_heads = arch['depths'], arch['num_heads']
        self.num_layers = sum(self.depths)
        if out_type not in OUT_TYPES:
            raise ValueError(f'out_type must be one of {OUT_TYPES}, got {out_type!r}')
        for name, rate in (('drop_rate', drop_rate), ('drop_path_rate', drop_path_rate)):
            if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
                raise ValueError(f'{name} must be in [0, 1), got {rate!r}')
        if type(frozen_stages) is not int or not -1 <= frozen_stages <= len(self.depths):
            raise ValueError(f'frozen_stages must be in [-1, {len(self.depths)}], got {frozen_stages!r}')
        if type(position_cache_bytes) is not int or position_cache_bytes < 0:
            raise ValueError('position_cache_bytes must be a number of bytes of at least 0, which keeps nothing, '
                             f'got {position_cache_bytes!r}')
        self.out_type, self.final_norm = out_type, final_norm
        self.frozen_stages, self.norm_eval, self.with_cp = frozen_stages, norm_eval, with_cp
        self.out_indices = resolve_indices('out_indices', out_indices, self.num_layers)
        if not self.out_indices:
            raise ValueError('out_indices must name at least one block, got none')

        self.stem = build_stem(stem_cfg, in_channels, arch)
        self.out_stride = self.stem.out_stride
        self.patch_resolution = tuple(
            -(-side // self.out_stride) for side in to_pair('img_size', img_size))
        global_blocks = resolve_indices('global_attn_indexes', global_attn_indexes, self.num_layers)
        if window_size is None and global_blocks:
            raise ValueError(f'global_attn_indexes={global_attn_indexes!r} needs a window_size; without one every '
                             'block attends globally')
        if window_size == 'pretrain':
            window_size = self.patch_resolution
        window = None if window_size is None else to_pair('window_size', window_size)

        # Width of each block and, behind the last, that of its output.
        widths = [w for w, depth in zip(arch['embed_dims'], self.depths) for _ in range(depth)]
        widths.append(widths[-1])
        self.out_channels = tuple(widths[i + 1] for i in self.out_indices)
        self.blocks = nn.ModuleList()
        for i in range(self.num_layers):
            self.blocks.append(
                PerViTBlock(
                    widths[i],
                    widths[i + 1],
                    self.num_heads,
                    build_position(position_cfg, distance_scale, arch, self.patch_resolution),
                    window_size=None if i in global_blocks else window,
                    mlp_ratio=arch['mlp_ratio'],
                    cpe=cpe,
                    content=content,
                    qkv_bias=qkv_bias,
                    drop_rate=drop_rate,
                    drop_path_rate=drop_path_rate * i / max(self.num_layers - 1, 1),
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg))
        needs_projection = any(
            getattr(block.attn.position, 'needs_projection', True) for block in self.blocks
            if block.attn.position is not None)
        self.position_proj = DistanceProjection(arch['position_channels']) if needs_projection else None
        self.position_cache = PositionCache(position_cache_bytes)
        for i, width in zip(self.out_indices, self.out_channels):
            norm = build_norm_layer(norm_cfg, width)[1] if final_norm else nn.Identity()
            self.add_module(f'norm{i}', norm)
        self._freeze_stages()

    def init_weights(self) -> None:
        """Initialize by ``init_cfg``; a ``Pretrained`` rule comes last, through :func:`load_pretrained`."""
        rules = self.init_cfg
        pretrained = [rule for rule in rules if rule_name(rule) == 'Pretrained']
        first = not self.is_init
        self.init_cfg = [rule for rule in rules if rule_name(rule) != 'Pretrained']
        try:
            super().init_weights()
        finally:
            self.init_cfg = rules
        if first:
            for rule in pretrained:
                load_pretrained(self, **{key: value for key, value in rule.items() if key != 'type'})
                if hasattr(self, '_params_init_info'):
                    update_init_info(self, init_info=f'PretrainedInit: load from {rule["checkpoint"]}')

    def set_peripheral_init(self, options: dict, override: bool = True) -> None:
        """Merge options into the ``PeripheralInit`` rule of ``init_cfg``, ahead of :meth:`init_weights`.

        Args:
            options (dict): Arguments of :class:`pervit_mm.engine.PeripheralInit`, which checks them.
            override (bool): Whether they win over those that the rule has. Defaults to True.
        """
        for i, rule in enumerate(self.init_cfg):
            if rule_name(rule) == 'PeripheralInit':
                self.init_cfg[i] = {**rule, **options} if override else {**options, **rule}

    def position_grids(self, hw_shape: tuple[int, int]) -> list[tuple[int, int]]:
        """Grid that each block's Φp spans on a map (H, W): its window, or the map."""
        return [block.window_size or tuple(hw_shape) for block in self.blocks]

    def log_positions(self, hw_shape: tuple[int, int]) -> list[Tensor | None]:
        """log Φp of each block, as forward uses it.

        Args:
            hw_shape (tuple[int, int]): Grid (H, W) in tokens.

        Returns:
            list[Tensor, optional]: ``(nH, N, N)`` float32 for each block, N tokens of its window or of the map; None
            without Φp. Blocks are computed together, so their gradients come from one backward pass over all of them.
        """
        return log_position_terms([block.attn.position for block in self.blocks], self.position_grids(hw_shape),
                                  self.position_proj)

    def _log_position(self, index: int, grid: tuple[int, int]) -> Tensor | None:
        position = self.blocks[index].attn.position
        return None if position is None else position(grid, self.position_proj)

    def _forward_block(self, x: Tensor, index: int, hw_shape: tuple[int, int],
                       log_position: Tensor | None) -> Tensor:
        """One block, making Φp on the way (and again in recomputation) unless it is known."""
        block = self.blocks[index]
        if log_position is None:
            log_position = self._log_position(index, block.window_size or hw_shape)
        return block(x, hw_shape, log_position)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run the backbone.

        Args:
            x (Tensor): Images ``(B, in_channels, h, w)`` of any size, channels last or not.

        Returns:
            tuple[Tensor, ...]: One for each of ``out_indices``, see ``out_type``.
        """
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        hw_shape = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)  # (B, C, H, W) → (B, N, C)
        depth = self.out_indices[-1] + 1
        known: list[Tensor | None] = [None] * depth
        positions, grids = [block.attn.position for block in self.blocks[:depth]], self.position_grids(hw_shape)
        recompute = self.with_cp and self.training and torch.is_grad_enabled()
        if PositionCache.usable() and not x.is_meta:
            known = self.position_cache.get(positions, grids, self.num_heads, self.position_proj)
        elif torch.is_grad_enabled() and not recompute:  # backward needs them all at once anyway
            known = log_position_terms(positions, grids, self.position_proj)
        outs = []
        for i in range(depth):
            if recompute:
                x = checkpoint(self._forward_block, x, i, hw_shape, known[i], use_reentrant=False)
            else:
                x = self._forward_block(x, i, hw_shape, known[i])
            if i in self.out_indices:
                outs.append(self._format_output(getattr(self, f'norm{i}')(x), hw_shape))
        return tuple(outs)

    def _format_output(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        if self.out_type == 'raw':
            return x
        if self.out_type == 'avg_featmap':
            return x.mean(dim=1)
        return x.transpose(1, 2).reshape(x.shape[0], -1, *hw_shape).contiguous()

    def _freeze_stages(self) -> None:
        """Switch off gradients, and random and running behaviour, of what is frozen or never run."""
        frozen: list[nn.Module] = list(self.blocks[self.out_indices[-1] + 1:])
        if self.frozen_stages >= 0:
            last = sum(self.depths[:self.frozen_stages])
            frozen += [self.stem, *self.blocks[:last]]
            frozen += [getattr(self, f'norm{i}') for i in self.out_indices if i < last]
            if self.position_proj is not None:
                frozen.append(self.position_proj)
        for module in frozen:
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'PerViT':
        """Switch the mode; what is frozen stays in eval mode."""
        super().train(mode)
        if mode:
            self.position_cache.clear()  # memory for nothing from the first step on
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter, for layer-wise learning rate decay.

        Args:
            param_name (str): Name of the parameter in the whole model.
            prefix (str): Name of the backbone in it, with a dot. Defaults to ''.

        Returns:
            tuple[int, int]: Depth, 0 for the stem and the distance projection, 1 to L for the blocks, L + 1 for the
            rest; and the number of depths, L + 2.
        """
        num_layers = self.num_layers + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        parts = param_name[len(prefix):].split('.')
        if parts[0] in ('stem', 'position_proj'):
            return 0, num_layers
        if parts[0] == 'blocks':
            return int(parts[1]) + 1, num_layers
        return num_layers - 1, num_layers

    def switch_to_deploy(self, hw_shapes: Sequence[tuple[int, int]] | None = None) -> None:
        """Freeze Φp into buffers and fold BatchNorm into the stem's convolutions, for inference.

        Afterwards Φp costs a look-up, the position network is gone, and only the named grids are accepted. Calling it
        again does nothing.

        Args:
            hw_shapes (Sequence[tuple[int, int]], optional): Token grids (H, W) to serve. Defaults to None, the
                pretraining grid.
        """
        freeze_positions(self, hw_shapes)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """Take the form of the checkpoint first; torch and MMEngine load the children after this."""
        follow_checkpoint(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
