"""A trained PerViT as a file for other runtimes: ONNX, or the format of ``torch.export``.

The file takes any batch size and one image size. For that size Φp is frozen, and BatchNorm is folded
(``switch_to_deploy``). The outputs of the file are compared with those of the PyTorch model before deployment.

The file takes normalized images, like the model's own ``forward``. Mean and standard deviation are stored in the file
as text, see :func:`pervit_mm.apis.configs.preprocessing_of`. A classifier returns its logits and no softmax: logits can
be compared closely, and softmax is one line in every runtime.

Fused attention (``scaled_dot_product_attention``) needs no second path here: PyTorch's exporter for ONNX writes it out
as two matrix products and a softmax.
"""
import copy
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..checkpoints import check_target, read_classifier
from ..models import PerViT
from ..models.arch import to_pair
from ..utils.errors import UserError, told
from .building import build, load_strictly
from .configs import image_size_of, preprocessing_of

#: Formats, and the suffixes of their files.
FORMATS = {'onnx': '.onnx', 'torch-export': '.pt2'}
#: Largest absolute difference to PyTorch that the outputs of a file may have.
TOLERANCE = 1e-4
#: Batch sizes that a file is checked with. It is traced with another batch size.
CHECKED_BATCHES = (1, 3)


class ExportedModel(nn.Module):
    """Images in, logits or feature maps out.

    Args:
        model (nn.Module): A PerViT, or a classifier of MMPretrain around one. It is put into eval mode, and its
            parameters are frozen.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)

    @property
    def backbone(self) -> PerViT:
        """The PerViT."""
        return self.model if isinstance(self.model, PerViT) else self.model.backbone

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return next(self.backbone.stem.parameters()).shape[1]  # of the first convolution's weight

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Images ``(B, C, h, w)`` to logits ``(B, num_classes)``, or to the backbone's tuple."""
        outputs = self.model(images)
        if not isinstance(outputs, Tensor) and self.model is not self.backbone:
            raise UserError(f'model.head must return one tensor, the logits, got {type(outputs).__name__}: give '
                            '--backbone-only')
        return outputs

    def output_names(self) -> list[str]:
        """'logits', or for a backbone 'block{i}' for each of ``out_indices``."""
        return [f'block{i}' for i in self.backbone.out_indices] if self.model is self.backbone else ['logits']


class Exported(NamedTuple):
    """What :func:`export_checked` found.

    Attributes:
        difference (float): Largest absolute difference to PyTorch.
        image_shape (tuple[int, int, int]): (C, h, w) of the images.
        output_shapes (dict[str, tuple[int, ...]]): Shape of each output by name, without the batch axis.
    """
    difference: float
    image_shape: tuple[int, int, int]
    output_shapes: dict[str, tuple[int, ...]]


def _as_tuple(outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (outputs, ) if isinstance(outputs, Tensor) else tuple(outputs)


def check_packages(file_format: str) -> None:
    """Raise UserError for an unknown format, or if its packages aren't installed.

    Args:
        file_format (str): 'onnx' or 'torch-export', which needs torch alone.
    """
    if file_format not in FORMATS:
        raise UserError(f'file_format must be one of {tuple(FORMATS)}, got {file_format!r}')
    names = ('onnx', 'onnxscript', 'onnxruntime') if file_format == 'onnx' else ()
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise UserError(f'--format onnx needs {" and ".join(missing)}, not installed here: pip install '
                        "'pervit_mm[export]'; --format torch-export needs nothing more")


def load_model(cfg: Config, checkpoint: str | Path, backbone_only: bool = False) -> ExportedModel:
    """Build what is to be exported, with the weights of a checkpoint, none missing and none left over.

    Args:
        cfg (Config): A config of MMPretrain. For the backbone alone a config of any toolbox, which isn't imported.
        checkpoint (str | Path): A file written by a training with this config or by a converter; or ``pervit_mm://``
            and the name of a published one.
        backbone_only (bool): Whether only ``model.backbone`` is exported. Defaults to False.

    Returns:
        ExportedModel: In eval mode on the CPU, not deployed.

    Raises:
        UserError: If the config cannot be exported, or the checkpoint doesn't fit it.
    """
    config = cfg.get('model') or {}
    scope = cfg.get('default_scope', 'mmengine')
    if not isinstance(config.get('backbone'), dict):
        raise UserError('the config has no model.backbone, so there is no PerViT in it to export')
    if not backbone_only and scope != 'mmpretrain':
        raise UserError(f"the config's default_scope is {scope!r}, and only classifiers of 'mmpretrain' are exported "
                        'as a whole: give --backbone-only')
    # The backbone is registered at the root, so it needs no scope. Without a scope no toolbox is imported.
    model = build(config.backbone, None) if backbone_only else build(config, scope)
    backbone = model if backbone_only else getattr(model, 'backbone', None)
    if not isinstance(backbone, PerViT):
        raise UserError(f'model.backbone must be a PerViT, got {config.backbone.get("type")!r}')
    prefix = 'backbone.' if backbone_only else ''
    state = read_classifier(checkpoint)
    load_strictly(model, {key[len(prefix):]: value for key, value in state.items() if key.startswith(prefix)},
                  f"checkpoint '{checkpoint}'")
    return ExportedModel(model)


def _trace(model: ExportedModel, img_size: tuple[int, int]) -> ExportedProgram:
    """Deploy a copy of the model for one image size (h, w) and trace it with any batch size."""
    deployed = copy.deepcopy(model)
    stride = deployed.backbone.out_stride
    deployed.backbone.switch_to_deploy([tuple(-(-side // stride) for side in img_size)])
    images = torch.zeros(2, model.in_channels, *img_size)  # tracing may make a batch of 1 a constant
    with torch.no_grad():
        program = torch.export.export(deployed, (images, ), dynamic_shapes=({0: Dim('batch')}, ), strict=False)
    for node in program.graph.nodes:
        node.meta.pop('stack_trace', None)  # has paths of this machine, which both formats would store
    return program


def _write(program: ExportedProgram, path: Path, file_format: str, names: list[str], preprocessing: dict) -> None:
    """Write a traced model. In ONNX a model over 2 GB becomes two files, with the weights in ``{path}.data``."""
    text = json.dumps(preprocessing)
    if file_format == 'torch-export':
        torch.export.save(program, path, extra_files={'preprocessing.json': text})
        return
    converted = torch.onnx.export(program, dynamo=True, input_names=['images'], output_names=names,
                                  dynamic_shapes=({0: 'batch'}, ), verbose=False)  # the name of the first axis
    converted.model.metadata_props['preprocessing'] = text
    converted.save(path)


def _open(path: Path, file_format: str) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Load a file into onnxruntime (CPU) or PyTorch. Returns a function from images to a tuple of outputs."""
    if file_format == 'torch-export':
        module = torch.export.load(path).module()
        return lambda images: _as_tuple(module(images))
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return lambda images: tuple(torch.from_numpy(x) for x in session.run(None, {'images': images.numpy()}))


@torch.no_grad()
def max_difference(path: Path, file_format: str, model: ExportedModel, img_size: tuple[int, int]) -> Exported:
    """Compare the outputs of a file with those of the model, on random images in batches of several sizes.

    Args:
        path (Path): The file.
        file_format (str): 'onnx' or 'torch-export'.
        model (ExportedModel): The model as trained, not deployed.
        img_size (tuple[int, int]): (h, w) in pixels.

    Returns:
        Exported: Its difference is NaN if the file or the model computes a NaN.

    Raises:
        UserError: If the file cannot be run, or returns other shapes than the model.
    """
    shape = (model.in_channels, *img_size)
    generator, worst, run = torch.Generator().manual_seed(0), torch.zeros(()), None
    for batch in CHECKED_BATCHES:
        images = torch.randn(batch, *shape, generator=generator)
        expected = _as_tuple(model(images))
        try:
            run = run or _open(path, file_format)
            found = run(images)
        except Exception as error:  # each runtime has its own exceptions
            reason = f'{type(error).__name__}: {error}'.splitlines()[0]
            raise UserError(f'the exported file does not run on a batch of {batch} ({reason})') from error
        shapes = [[tuple(x.shape) for x in outputs] for outputs in (found, expected)]
        if shapes[0] != shapes[1]:
            raise UserError(f'the exported file returns {shapes[0]} for a batch of {batch}, and PyTorch {shapes[1]}')
        for one, other in zip(found, expected):
            worst = torch.maximum(worst, (one - other).abs().max())  # keeps NaN, unlike max()
    return Exported(float(worst), shape, dict(zip(model.output_names(), [x[1:] for x in shapes[1]])))


def export_checkpoint(cfg: Config, checkpoint: str | Path, path: str | Path, file_format: str,
                      img_size: tuple[int, int] | None = None, backbone_only: bool = False,
                      force: bool = False) -> Exported:
    """Export a checkpoint with its config. The file is written only if it computes the same as the model.

    Args:
        cfg (Config): See :func:`load_model`.
        checkpoint (str | Path): See :func:`load_model`.
        path (str | Path): File to write.
        file_format (str): 'onnx' or 'torch-export'.
        img_size (tuple[int, int], optional): (h, w) in pixels. Defaults to None, what the config tests with.
        backbone_only (bool): See :func:`load_model`. Defaults to False.
        force (bool): Whether an existing file may be replaced. Defaults to False.

    Returns:
        Exported: Its difference is at most :data:`TOLERANCE`.

    Raises:
        UserError: For the reasons of :func:`load_model` and :func:`export_checked`, or if there is no image size.
            Nothing is written then.
    """
    check_request(path, file_format, force)  # before the model is built, which takes seconds
    model = load_model(cfg, checkpoint, backbone_only)
    img_size = img_size or image_size_of(cfg)
    if img_size is None:
        raise UserError('the test pipeline of the config brings images of several sizes, and the exported file takes '
                        'one: give --img-size H W')
    return _export(model, Path(path), file_format, img_size, preprocessing_of(cfg))


def export_checked(model: ExportedModel, path: str | Path, file_format: str, img_size: tuple[int, int],
                   preprocessing: dict, force: bool = False) -> Exported:
    """Export a model that is loaded already. The file is written only if it computes the same as the model.

    Args:
        model (ExportedModel): From :func:`load_model`. It is not changed.
        path (str | Path): File to write.
        file_format (str): 'onnx' or 'torch-export'.
        img_size (tuple[int, int]): Any (h, w) in pixels.
        preprocessing (dict): From :func:`pervit_mm.apis.configs.preprocessing_of`. The file holds it as JSON: in ONNX's
            metadata as 'preprocessing', in torch's extra file 'preprocessing.json'.
        force (bool): Whether an existing file may be replaced. Defaults to False.

    Returns:
        Exported: Its difference is at most :data:`TOLERANCE`.

    Raises:
        UserError: If a package is missing, an argument is not allowed, or the difference is larger. Nothing is written
            then.
    """
    check_request(path, file_format, force)
    return _export(model, Path(path), file_format, img_size, preprocessing)


def check_request(path: str | Path, file_format: str, force: bool) -> None:
    """Raise UserError if files of this format cannot be made, or ``path`` may not be written or has another suffix."""
    check_packages(file_format)
    check_target(path, force)
    if Path(path).suffix != FORMATS[file_format]:
        raise UserError(f"path must end in {FORMATS[file_format]} for {file_format}, got '{path}'")


def _export(model: ExportedModel, path: Path, file_format: str, img_size: tuple[int, int],
            preprocessing: dict) -> Exported:
    """Trace the model, write the file beside its target, compare it with the model, and move it to the target."""
    img_size = to_pair('img_size', img_size)
    program = _trace(model, img_size)
    with told(f"'{path}' cannot be written"):
        scratch = tempfile.TemporaryDirectory(prefix=f'.{path.name}.', dir=path.parent)
    with scratch as folder:
        _write(program, draft := Path(folder) / path.name, file_format, model.output_names(), preprocessing)
        exported = max_difference(draft, file_format, model, img_size)
        if not exported.difference <= TOLERANCE:
            raise UserError(f'max abs difference to PyTorch is {exported.difference:.3g}, and {TOLERANCE:g} is '
                            f"allowed: '{path}' is not written")
        for file in Path(folder).iterdir():
            os.replace(file, path.parent / file.name)
    return exported
