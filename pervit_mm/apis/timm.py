"""PerViT as timm knows models, and registered with timm where timm is installed.

After ``import pervit_mm.apis.timm``, ``timm.create_model`` takes ``pervit_tiny``, ``pervit_small``, ``pervit_medium``
and ``pervit_nano``. Without timm the import registers nothing, and :class:`TimmPerViT` works all the same.
"""
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import accumulate

import torch
from torch import Tensor, nn

from ..checkpoints import read_classifier
from ..models import PeripheralInit, PerViT
from ..models.arch import resolve_arch, resolve_indices
from ..utils.errors import UserError
from .named_models import models_by_name

__all__ = ['TimmPerViT', 'pervit_medium', 'pervit_nano', 'pervit_small', 'pervit_tiny']

#: Options of PerViT that the adapter sets itself, and what sets them in timm.
_BY_TIMM = dict(in_channels='in_chans', out_indices='features_only=True', out_type='features_only=True or global_pool',
                init_cfg='checkpoint_path')


class TimmPerViT(nn.Module):
    """PerViT with a classifier, under the names and methods of timm's models.

    The weights have the names that MMPretrain's classifier gives them, ``backbone.*`` and ``head.fc.*``. So a
    checkpoint goes either way as it is.

    Args:
        arch (str | dict): Size, as :class:`pervit_mm.models.PerViT` takes it. Defaults to 'tiny'.
        img_size (int | tuple[int, int]): Size (h, w) in pixels of the images that Φp is trained on. Images of any size
            are accepted. Defaults to 224.
        in_chans (int): Channels of the image. Defaults to 3.
        num_classes (int): Classes; 0 removes the classifier. Defaults to 1000.
        global_pool (str): 'avg' takes the mean over tokens, '' leaves the map. Defaults to 'avg'.
        drop_rate (float): Dropout rate ahead of the classifier. Defaults to 0.
        proj_drop_rate (float): Dropout rate of attention outputs and FFNs, PerViT's own ``drop_rate``. Defaults to 0.
        drop_path_rate (float): Stochastic depth rate of the last block. Defaults to 0.
        device (torch.device | str, optional): Where the weights are. Defaults to None, PyTorch's default.
        dtype (torch.dtype, optional): Their type. Defaults to None, PyTorch's default.
        **options: Other options of PerViT, such as ``window_size`` or ``position_cfg``. PerViT refuses what it doesn't
            know.

    Attributes:
        feature_info (list[dict]): For each block the channels ``num_chs``, the stride ``reduction`` and ``module``.
        num_features (int): Channels of :meth:`forward_features`.

    Raises:
        UserError, TypeError: With the argument's name, the value, and what is allowed.
    """

    output_fmt = 'NCHW'

    def __init__(self, arch: str | dict = 'tiny', img_size: int | tuple[int, int] = 224, in_chans: int = 3,
                 num_classes: int = 1000, global_pool: str = 'avg', drop_rate: float = 0., proj_drop_rate: float = 0.,
                 drop_path_rate: float = 0., device: torch.device | str | None = None,
                 dtype: torch.dtype | None = None, **options) -> None:
        super().__init__()
        for name in _BY_TIMM.keys() & options.keys():
            raise UserError(f'{name}={options[name]!r} is not for a model of timm: take {_BY_TIMM[name]}')
        self.in_chans, self.global_pool = in_chans, global_pool
        self.backbone = PerViT(
            arch, img_size=img_size, in_channels=in_chans, out_indices=-1, out_type='featmap', drop_rate=proj_drop_rate,
            drop_path_rate=drop_path_rate, **options)
        PeripheralInit()(self.backbone)  # init_weights() would print lines for each weight
        self._needs_trained_grid = options.get('distance_scale', 'grid') != 'grid' or (
            options.get('window_size') == 'pretrain')
        self.feature_info = [
            dict(num_chs=block.ffn.fc2.out_features, reduction=self.backbone.out_stride, module=f'backbone.blocks.{i}')
            for i, block in enumerate(self.backbone.blocks)]
        self.num_features = self.head_hidden_size = self.backbone.out_channels[-1]
        self.head = nn.ModuleDict(dict(drop=nn.Dropout(drop_rate)))
        self.reset_classifier(num_classes)
        self.to(device=device, dtype=dtype)

    def get_classifier(self) -> nn.Module:
        """The Linear layer that makes the logits; an Identity without classes."""
        return self.head['fc']

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier in place, with random weights.

        Args:
            num_classes (int): Classes; 0 removes the classifier.
            global_pool (str, optional): 'avg' or ''. Defaults to None, as it is.

        Raises:
            UserError: If a value is not allowed.
        """
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in ('avg', ''):
            raise UserError(f"global_pool must be 'avg' or '', since PerViT has no class token, got {pool!r}")
        if type(num_classes) is not int or num_classes < 0:
            raise UserError(f'num_classes must be an integer of at least 0, got {num_classes!r}')
        self.num_classes, self.global_pool = num_classes, pool
        fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        if num_classes:
            nn.init.trunc_normal_(fc.weight, std=.02)
            nn.init.zeros_(fc.bias)
        like = next(self.backbone.parameters())
        self.head['fc'] = fc.to(like.device, like.dtype).train(self.training)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images ``(B, in_chans, h, w)`` to the normed map of the last block ``(B, num_features, H, W)``."""
        return self.backbone(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify the map of :meth:`forward_features`.

        Args:
            x (Tensor): ``(B, num_features, H, W)``.
            pre_logits (bool): Whether to stop ahead of the classifier. Defaults to False.

        Returns:
            Tensor: Logits ``(B, num_classes)``, or features ``(B, num_features)``; maps of them without pooling.
        """
        x = self.head['drop'](x.mean((2, 3)) if self.global_pool else x)
        return x if pre_logits else self.head['fc'](x.movedim(1, -1)).movedim(-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, in_chans, h, w)`` to logits ``(B, num_classes)``."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(self, x: Tensor, indices: int | Sequence[int] | None = None, norm: bool = False,
                              stop_early: bool = False, output_fmt: str = 'NCHW',
                              intermediates_only: bool = False) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Outputs of several blocks.

        Args:
            x (Tensor): Images ``(B, in_chans, h, w)``.
            indices (int | Sequence[int], optional): Blocks, ascending, negative ones counted from the end; a number is
                that many last blocks. Defaults to None, all.
            norm (bool): Whether the last block's output is normed. The others have widths of their own, and no norm.
                Defaults to False.
            stop_early (bool): Whether blocks after the last of ``indices`` are not run. Defaults to False.
            output_fmt (str): 'NCHW' for maps ``(B, C, H, W)``, 'NLC' for tokens ``(B, N, C)``. Defaults to 'NCHW'.
            intermediates_only (bool): Whether to leave the final map out. Defaults to False.

        Returns:
            list[Tensor] | tuple[Tensor, list[Tensor]]: Outputs of the blocks, behind the map of
            :meth:`forward_features` (of the last block that ran, without norm, if that isn't the last).

        Raises:
            UserError: If ``indices`` or ``output_fmt`` is not allowed.
        """
        if output_fmt not in ('NCHW', 'NLC'):
            raise UserError(f"output_fmt must be 'NCHW' or 'NLC', got {output_fmt!r}")
        backbone, last = self.backbone, self.backbone.out_indices[-1]
        taken = self._take(indices)
        embedded, hw_shape = backbone.embed(x)

        def to_map(tokens: Tensor) -> Tensor:
            return tokens.transpose(1, 2).reshape(len(tokens), -1, *hw_shape).contiguous()

        levels = []
        for i, tokens in enumerate(backbone.run_blocks(embedded, hw_shape, backbone.position_terms(hw_shape))):
            final = getattr(backbone, f'norm{i}')(tokens) if i == last else tokens
            if i in taken:
                level = final if norm else tokens
                levels.append(to_map(level) if output_fmt == 'NCHW' else level)
            if stop_early and i == taken[-1]:
                break
        return levels if intermediates_only else (to_map(final), levels)

    def prune_intermediate_layers(self, indices: int | Sequence[int] = 1, prune_norm: bool = False,
                                  prune_head: bool = True) -> list[int]:
        """Remove what the outputs of some blocks don't need; ``features_only=True`` does it.

        Norm and classifier go with the last block, whatever the arguments say.

        Args:
            indices (int | Sequence[int]): As :meth:`forward_intermediates` takes them. Defaults to 1.
            prune_norm (bool): Whether to remove the norm. Defaults to False.
            prune_head (bool): Whether to remove the classifier. Defaults to True.

        Returns:
            list[int]: The blocks, none negative.
        """
        backbone, before = self.backbone, self.backbone.out_indices[-1]
        taken = self._take(indices)
        last, cut = taken[-1], taken[-1] < before
        norm = backbone._modules.pop(f'norm{before}')
        backbone.add_module(f'norm{last}', nn.Identity() if cut or prune_norm else norm)
        backbone.blocks = backbone.blocks[:last + 1]
        backbone.num_layers, backbone.out_indices = last + 1, (last, )
        self.num_features = self.head_hidden_size = self.feature_info[last]['num_chs']
        backbone.out_channels = (self.num_features, )
        if prune_head or cut:
            self.reset_classifier(0, '')
        return list(taken)

    def _take(self, indices: int | Sequence[int] | None) -> tuple[int, ...]:
        """Blocks that timm's ``indices`` mean."""
        blocks = self.backbone.num_layers
        if type(indices) is int and not 1 <= indices <= blocks:
            raise UserError(f'indices as a number means that many last blocks, from 1 to {blocks}, got {indices}')
        if indices is None or type(indices) is int:
            indices = range(blocks - (blocks if indices is None else indices), blocks)
        return resolve_indices('indices', tuple(indices), blocks)

    def no_weight_decay(self) -> set[str]:
        """Weights without decay other than 1-D ones, which timm leaves out by itself: none."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict:
        """Groups of weights for timm's layer decay, the same as :meth:`PerViT.get_layer_depth`: stem, blocks, rest.

        Args:
            coarse (bool): Whether a group is a stage instead of a block. Defaults to False.

        Returns:
            dict: Regular expressions as timm's ``group_with_matcher`` takes them.
        """
        blocks = [(r'^backbone\.blocks\.(\d+)\.', None)]
        if coarse:
            stages = [stage for stage, depth in enumerate(self.backbone.depths) for _ in range(depth)]
            blocks = [(rf'^backbone\.blocks\.{i}\.', (stage, )) for i, stage in enumerate(stages)]
        return dict(stem=r'^backbone\.(?:stem|position_proj)\.', blocks=blocks)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Set whether blocks are recomputed in backward to save memory."""
        self.backbone.with_cp = enable

    def load_pretrained(self, checkpoint_path: str) -> None:
        """Load a published checkpoint after comparing its sha256; timm calls it for ``pretrained=True``.

        timm fits the first convolution to another ``in_chans``, and leaves the classifier random for another
        ``num_classes``.

        Args:
            checkpoint_path (str): ``pervit_mm://`` and a file name, or a path.

        Raises:
            UserError: If there is no such checkpoint, or ``img_size`` names another grid than the one that Φp was
                trained on although an option refers to that grid.
        """
        from timm.models import load_pretrained  # imported here: only timm calls this
        trained = tuple(self.pretrained_cfg['input_size'][-2:])
        grid = tuple(-(-side // self.backbone.out_stride) for side in trained)
        if self._needs_trained_grid and grid != self.backbone.patch_resolution:
            raise UserError(f"img_size must be {trained} with pretrained=True and distance_scale='fixed' or "
                            "window_size='pretrain', which refer to the images that Φp was trained on: leave img_size "
                            'out, images of any size are accepted')
        load_pretrained(self, {**self.pretrained_cfg, 'state_dict': read_classifier(checkpoint_path)},
                        num_classes=self.num_classes, in_chans=self.in_chans)


def _create(variant: str, arch: str, pretrained: bool, **kwargs) -> nn.Module:
    """Build a model as timm does. If there are no weights for ``pretrained=True``, tell for which models there are."""
    from timm.models import build_model_with_cfg, resolve_pretrained_cfg  # imported here: pervit_mm works without timm
    if pretrained:
        cfg = resolve_pretrained_cfg(variant, kwargs.get('pretrained_cfg'), kwargs.get('pretrained_cfg_overlay'))
        if not (cfg.has_weights or cfg.state_dict):
            there = [name for name, default in default_cfgs.items() if default.is_pretrained]
            raise UserError(f'pretrained=True: no weights of {variant} are published, only of {", ".join(there)}. '
                            'Leave pretrained out, or give checkpoint_path instead, for example a file of the authors '
                            'converted with tools/model_converters/pervit_to_mm.py')
    last_of_stages = tuple(end - 1 for end in accumulate(resolve_arch(arch)['depths']))
    return build_model_with_cfg(TimmPerViT, variant, pretrained, arch=arch,
                                feature_cfg=dict(out_indices=last_of_stages, feature_cls='getter'), **kwargs)


def pervit_tiny(pretrained: bool = False, **kwargs) -> nn.Module:
    """PerViT-T for 224 px; see :class:`TimmPerViT`."""
    return _create('pervit_tiny', 'tiny', pretrained, **kwargs)


def pervit_small(pretrained: bool = False, **kwargs) -> nn.Module:
    """PerViT-S for 224 px; see :class:`TimmPerViT`."""
    return _create('pervit_small', 'small', pretrained, **kwargs)


def pervit_medium(pretrained: bool = False, **kwargs) -> nn.Module:
    """PerViT-M for 224 px; see :class:`TimmPerViT`."""
    return _create('pervit_medium', 'medium', pretrained, **kwargs)


def pervit_nano(pretrained: bool = False, **kwargs) -> nn.Module:
    """PerViT-nano for 28 px; see :class:`TimmPerViT`."""
    return _create('pervit_nano', 'nano', pretrained, **{'img_size': 28, **kwargs})


if find_spec('timm') is not None:
    from timm.models import generate_default_cfgs, register_model

    _NAMES = dict(first_conv='backbone.stem.layers.0.conv', classifier='head.fc')
    #: timm looks for this name in the module of a model.
    default_cfgs = generate_default_cfgs({
        **dict.fromkeys(('pervit_tiny', 'pervit_small', 'pervit_medium'),
                        dict(num_classes=1000, input_size=(3, 224, 224), pool_size=(14, 14), **_NAMES)),
        # The values of its config. A published file is read and compared by load_pretrained().
        'pervit_nano.fashion_mnist': dict(
            file=models_by_name()['pervit_nano_fashion-mnist'][1], custom_load=True, num_classes=10,
            input_size=(1, 28, 28), pool_size=(7, 7), mean=(72.94 / 255, ), std=(90.02 / 255, ), crop_pct=1., **_NAMES),
    })
    for _model in (pervit_tiny, pervit_small, pervit_medium, pervit_nano):
        register_model(_model)
