"""PerViT, the backbone."""
from collections.abc import Iterator, Sequence

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, update_init_info
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..ops import is_transformed
from ..utils.errors import UserError
from .arch import check_images, check_options, resolve_arch, resolve_indices, resolve_windows, to_pair
from .build import build_position, build_stem
from .deployment import deploy, follow_checkpoint
from .init_rules import rule_name, with_peripheral_init
from .layers import PerViTBlock
from .position import (
    DistanceProjection,
    LogPositions,
    PositionCache,
    check_position,
    fitting_blocks,
    make_log_positions,
)
from .pretrained import load_pretrained

#: Most bytes of log Φp that a step with recomputation stores. Backward stores as much once more.
RECOMPUTED_BYTES = 64 * 2**20


@MODELS.register_module()
class PerViT(BaseModule):
    """Peripheral Vision Transformer.

    A PyTorch implementation of `Peripheral Vision Transformer <https://arxiv.org/abs/2206.06801>`_ (NeurIPS 2022).

    The stem gives a grid of tokens that never shrinks. Attention is content times position. A small network makes the
    position attention Φp from the distances between tokens.

    :meth:`forward` consists of three methods that other models can build on too. :meth:`embed` turns images into
    tokens. :meth:`position_terms` gives log Φp of each block. :meth:`run_blocks` yields the tokens after each block.

    Args:
        arch (str | dict): 'tiny', 'small', 'medium', 'nano' or a dict, see :func:`resolve_arch`. Defaults to 'tiny'.
        img_size (int | tuple[int, int]): Pretraining image size (h, w) in pixels. It gives the pretraining grid, on
            which Φp is trained. Inputs may have any size. Defaults to 224.
        in_channels (int): Channels of the image. Defaults to 3.
        out_indices (int | Sequence[int]): Blocks whose outputs are returned, negative ones counted from the end.
            Blocks after the last one are neither run nor trained. Defaults to -1.
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
        distance_scale (str): What distance means on a grid other than the pretraining one, 'grid' or 'fixed', see
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
        position_cache_bytes (int): Most bytes of log Φp that are kept between calls without gradients, for the grids
            seen last. 0 keeps nothing. Defaults to 256 MiB.
        init_cfg (dict | list[dict], optional): Initialization. ``PeripheralInit`` is put before rules that don't name
            it. Defaults to None, which is ``dict(type='PeripheralInit')``.

    Attributes:
        out_channels (tuple[int, ...]): Channels of each output.
        embed_dims, num_features (int): Channels of the last output. Code for vision transformers asks for the first
            name, timm's code and MMPretrain's ``HybridEmbed`` for the second. The widths of the stages are in
            ``arch_settings``.
        out_stride (int): Pixels for each token.
        num_extra_tokens (int): 0, as there is no class token. MMPretrain's visualization tools ask for it.
        patch_resolution (tuple[int, int]): Pretraining grid (H, W) in tokens.

    Raises:
        UserError, TypeError: With the argument's name, the value, and what is allowed.

    Examples:
        >>> import torch
        >>> from pervit_mm.models import PerViT
        >>> model = PerViT('tiny', out_indices=(3, 11), out_type='featmap')
        >>> [tuple(x.shape) for x in model(torch.rand(1, 3, 224, 320))]
        [(1, 224, 14, 20), (1, 280, 14, 20)]
    """

    num_extra_tokens = 0

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
        check_options(
            arch['depths'], norm_cfg=norm_cfg, act_cfg=act_cfg, out_type=out_type, drop_rate=drop_rate,
            drop_path_rate=drop_path_rate, frozen_stages=frozen_stages, position_cache_bytes=position_cache_bytes,
            with_cp=with_cp)
        self.arch_settings = arch
        self.depths, self.num_heads = arch['depths'], arch['num_heads']
        self.num_layers = sum(self.depths)
        self.in_channels, self.out_type, self.final_norm = in_channels, out_type, final_norm
        self.frozen_stages, self.norm_eval, self.with_cp = frozen_stages, norm_eval, with_cp
        self.out_indices = resolve_indices('out_indices', out_indices, self.num_layers)
        if not self.out_indices:
            raise UserError('out_indices must name at least one block, got none')

        self.stem = build_stem(stem_cfg, in_channels, arch)
        self.out_stride = self.stem.out_stride
        self.patch_resolution = tuple(
            -(-side // self.out_stride) for side in to_pair('img_size', img_size))
        windows = resolve_windows(window_size, global_attn_indexes, self.num_layers, self.patch_resolution)

        # The width of each block, then the width of the last block's output.
        widths = [w for w, depth in zip(arch['embed_dims'], self.depths) for _ in range(depth)]
        widths.append(widths[-1])
        self.out_channels = tuple(widths[i + 1] for i in self.out_indices)
        self.embed_dims = self.num_features = self.out_channels[-1]
        self.blocks = nn.ModuleList()
        for i in range(self.num_layers):
            self.blocks.append(
                PerViTBlock(
                    widths[i],
                    widths[i + 1],
                    self.num_heads,
                    build_position(position_cfg, distance_scale, arch, self.patch_resolution),
                    window_size=windows[i],
                    mlp_ratio=arch['mlp_ratio'],
                    cpe=cpe,
                    content=content,
                    qkv_bias=qkv_bias,
                    drop_rate=drop_rate,
                    drop_path_rate=drop_path_rate * i / max(self.num_layers - 1, 1),
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg))
        positions = [block.attn.position for block in self.blocks]
        needs_projection = any(position is not None and position.needs_projection for position in positions)
        self.position_proj = DistanceProjection(arch['position_channels']) if needs_projection else None
        self.position_cache = PositionCache(position_cache_bytes)
        for i, width in zip(self.out_indices, self.out_channels):
            norm = build_norm_layer(norm_cfg, width)[1] if final_norm else nn.Identity()
            self.add_module(f'norm{i}', norm)
        self._freeze_stages()

    def init_weights(self) -> None:
        """Initialize by ``init_cfg``. A ``Pretrained`` rule comes last, through :func:`load_pretrained`."""
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
        """Merge options into the ``PeripheralInit`` rule of ``init_cfg``, before :meth:`init_weights` is called.

        Args:
            options (dict): Arguments of :class:`pervit_mm.models.PeripheralInit`, which checks them.
            override (bool): Whether ``options`` win over those that the rule has already. Defaults to True.
        """
        for i, rule in enumerate(self.init_cfg):
            if rule_name(rule) == 'PeripheralInit':
                self.init_cfg[i] = {**rule, **options} if override else {**options, **rule}

    def position_grids(self, hw_shape: tuple[int, int]) -> list[tuple[int, int]]:
        """Grid that each block's Φp spans on a map (H, W): its window, or the map."""
        return [block.window_size or tuple(hw_shape) for block in self.blocks]

    def embed(self, images: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, tuple[int, int]]:
        """Turn images into tokens; the first of the three steps of :meth:`forward`.

        Args:
            images (Tensor): ``(B, in_channels, h, w)`` of any size, channels last or not.
            hidden (Tensor, optional): Boolean ``(B, H, W)``, True for hidden tokens. No output depends on their
                pixels. A hidden token becomes the bias of the stem's last layer. Defaults to None, nothing hidden.

        Returns:
            tuple[Tensor, tuple[int, int]]: Tokens ``(B, N, C)``, and their grid (H, W), N = H * W.

        Raises:
            UserError: If ``images`` are no batch of images with ``in_channels`` channels in floating point, or
                ``hidden`` has another shape or type.
        """
        if not torch.jit.is_tracing():  # in a trace, sizes are no numbers
            check_images(images, self.in_channels)
        if not is_transformed():  # torch.func.vmap knows no memory format
            images = images.contiguous(memory_format=torch.channels_last)
        x = self.stem(images, hidden)
        hw_shape = (x.shape[2], x.shape[3])
        return x.flatten(2).transpose(1, 2), hw_shape  # (B, C, H, W) → (B, N, C)

    def position_terms(self, hw_shape: tuple[int, int]) -> LogPositions:
        """log Φp of each block; the second of the three steps of :meth:`forward`.

        Only this method decides where log Φp comes from. A frozen module has it in its buffers. Without gradients it
        comes from the cache. In training, log Φp of all blocks that run is made together, because backward needs all of
        it at once anyway. Under recomputation (``with_cp``) this goes for the blocks whose log Φp takes at most
        ``RECOMPUTED_BYTES`` together, such as windows. That of the others is made when the block asks for it, and again
        in backward.

        Args:
            hw_shape (tuple[int, int]): Grid (H, W) in tokens.

        Returns:
            LogPositions: A sequence of ``(nH, N, N)`` float32 for each block, N tokens of its window or of the map;
            None without Φp.

        Raises:
            UserError: If a block holds a position module that is no :class:`BasePosition`.
        """
        positions, grids = [block.attn.position for block in self.blocks], self.position_grids(hw_shape)
        for i, position in enumerate(positions):
            check_position(position, f'blocks[{i}].attn.position')  # it may have been replaced from outside
        runs = self.out_indices[-1] + 1  # blocks after the last output don't run
        known: list[Tensor | None] = []
        if self.position_cache is not None and PositionCache.usable() and not self._on_meta():
            known = self.position_cache.get(positions[:runs], grids[:runs], self.num_heads, self.position_proj)
        elif torch.is_grad_enabled() or self.position_cache is None or torch.jit.is_tracing():
            together = range(runs)
            if self._recomputes():
                together = fitting_blocks(together, grids, self.num_heads, RECOMPUTED_BYTES)
            known = make_log_positions([positions[i] if i in together else None for i in range(runs)], grids[:runs],
                                       self.position_proj)
        known = known + [None] * (self.num_layers - len(known))

        def make(block: int) -> Tensor | None:
            return None if positions[block] is None else positions[block](grids[block], self.position_proj)

        return LogPositions(known, make)

    def run_blocks(self, tokens: Tensor, hw_shape: tuple[int, int], log_positions: Sequence[Tensor | None],
                   kept: Tensor | None = None) -> Iterator[Tensor]:
        """Run the blocks up to the last of ``out_indices``; the third of the three steps of :meth:`forward`.

        Args:
            tokens (Tensor): ``(B, N, C)`` from :meth:`embed`, as they are or changed.
            hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.
            log_positions (Sequence[Tensor, optional]): From :meth:`position_terms`.
            kept (Tensor, optional): Of a dropping PerViT, see :class:`PerViTBlock`. Defaults to None, all tokens.

        Yields:
            Tensor: Tokens after each block, ``(B, N, C of the next block)``, before any output norm.
        """
        for i, block in enumerate(self.blocks[:self.out_indices[-1] + 1]):
            if self._recomputes():
                tokens = checkpoint(self._run_block, tokens, i, hw_shape, log_positions, kept, use_reentrant=False)
            else:
                tokens = block(tokens, hw_shape, log_positions[i], kept)
            yield tokens

    def _run_block(self, tokens: Tensor, index: int, hw_shape: tuple[int, int],
                   log_positions: Sequence[Tensor | None], kept: Tensor | None) -> Tensor:
        """Run a block that fetches its own log Φp, so that recomputation makes log Φp again instead of storing it."""
        return self.blocks[index](tokens, hw_shape, log_positions[index], kept)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run the backbone.

        Args:
            x (Tensor): Images ``(B, in_channels, h, w)`` of any size, channels last or not.

        Returns:
            tuple[Tensor, ...]: One for each of ``out_indices``, see ``out_type``.

        Raises:
            UserError: As :meth:`embed`.
        """
        return self.forward_tokens(*self.embed(x))

    def forward_tokens(self, tokens: Tensor, hw_shape: tuple[int, int]) -> tuple[Tensor, ...]:
        """Run the backbone from its tokens on, as :meth:`embed` gives them or changed.

        Args:
            tokens (Tensor): ``(B, N, C)``.
            hw_shape (tuple[int, int]): Grid (H, W) in tokens, N = H * W.

        Returns:
            tuple[Tensor, ...]: As :meth:`forward`.
        """
        outs = []
        for i, x in enumerate(self.run_blocks(tokens, hw_shape, self.position_terms(hw_shape))):
            if i in self.out_indices:
                outs.append(self._format_output(getattr(self, f'norm{i}')(x), hw_shape))
        return tuple(outs)

    def _format_output(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        if self.out_type == 'raw':
            return x
        if self.out_type == 'avg_featmap':
            return x.mean(dim=1)
        return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *hw_shape).contiguous()

    def _recomputes(self) -> bool:
        """Whether blocks that run now are recomputed in backward."""
        return self.with_cp and self.training and torch.is_grad_enabled()

    def _on_meta(self) -> bool:
        """Whether the weights are on the meta device, where they have no values, so that nothing can be kept."""
        return next(self.blocks.parameters()).is_meta

    def _freeze_stages(self) -> None:
        """Freeze parameters, dropout and BatchNorm statistics of ``frozen_stages`` and of blocks that don't run."""
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
        """Switch the mode. What is frozen stays in eval mode."""
        super().train(mode)
        if mode and self.position_cache is not None:
            self.position_cache.clear()  # the first step changes the weights and makes what is kept useless
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
            tuple[int, int]: The depth: 0 for the stem and the distance projection, 1 to L for the L blocks, L + 1 for
            the rest. Then the number of depths, L + 2.
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

        Afterwards Φp costs only a look-up, the position network is gone, and only the named grids are accepted. A
        second call does nothing.

        Args:
            hw_shapes (Sequence[tuple[int, int]], optional): Token grids (H, W) to accept. Defaults to None, the
                pretraining grid.
        """
        deploy(self, hw_shapes)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, local_metadata: dict, strict: bool,
                              missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str]) -> None:
        """Convert the backbone to the deployed form if the checkpoint is deployed, before any part is loaded.

        torch and MMEngine load the parts after this call.
        """
        follow_checkpoint(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                                      error_msgs)
