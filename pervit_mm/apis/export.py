"""A trained PerViT as a file for other runtimes: ONNX, or the format of ``torch.export``.

The file takes any batch size. Images have one size, for which Φp is frozen, or any size if Φp doesn't depend on it
(:data:`ANY_SIZE`). BatchNorm is folded (``switch_to_deploy``). The outputs of the file are compared with those of the
PyTorch model before deployment.

The file takes normalized images, like the model's own ``forward``. Mean and standard deviation are stored in the file
as text, see :func:`pervit_mm.apis.configs.preprocessing_of`. A classifier returns its logits and no softmax: logits can
be compared closely, and softmax is one line in every runtime.

Fused attention (``scaled_dot_product_attention``) needs no second path here: PyTorch's exporter for ONNX writes it out
as two matrix products and a softmax.
"""
import copy
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor
from torch.export import Dim, ExportedProgram

from ..checkpoints import check_target
from ..models.arch import to_pair
from ..utils.errors import UserError, told
from .configs import image_size_of, preprocessing_of
from .exported_model import ExportedModel, load_model

#: Formats, and the suffixes of their files.
FORMATS = {'onnx': '.onnx', 'torch-export': '.pt2'}
#: Largest absolute difference to PyTorch that the outputs of a file may have.
TOLERANCE = 1e-4
#: In place of an image size (h, w): height and width stay open.
ANY_SIZE = 'any'
#: Batch sizes that a file is checked with. It is traced with another batch size.
CHECKED_BATCHES = (1, 3)


class Exported(NamedTuple):
    """What :func:`export_checked` found.

    Attributes:
        difference (float): Largest absolute difference to PyTorch.
        image_shape (tuple[int, int, int]): (C, h, w) of the images; of the largest ones where any size is taken.
        output_shapes (dict[str, tuple[int, ...]]): Shape of each output by name for these, without the batch axis.
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


def sizes_to_check(model: ExportedModel, img_size: tuple[int, int] | str) -> list[tuple[int, int]]:
    """Image sizes that a file is traced with (the last) and compared with the model at.

    Args:
        model (ExportedModel): The model as trained.
        img_size (tuple[int, int] | str): (h, w) in pixels, or :data:`ANY_SIZE`.

    Returns:
        list[tuple[int, int]]: The size itself. For any size one with whole windows, one with less than a window, and
        one whose windows leave strips over.

    Raises:
        UserError: If it is :data:`ANY_SIZE`, and Φp of a block that runs depends on the size.
    """
    if img_size != ANY_SIZE:
        return [to_pair('img_size', img_size)]
    backbone = model.backbone
    bound = [i for i, block in enumerate(backbone.blocks[:backbone.out_indices[-1] + 1])
             if block.attn.position is not None and block.window_size is None]
    if bound:
        raise UserError(
            f'any image size: blocks {", ".join(map(str, bound))} of {backbone.num_layers} attend over the whole map, '
            'and a file holds their Φp for one map: give --img-size H W and export a file for each size. Models with '
            'window_size and without global_attn_indexes, or with position_cfg=None, take any size')
    stride, (height, width) = backbone.out_stride, (side * backbone.out_stride for side in backbone.patch_resolution)
    return [(height, 2 * width), (stride + 1, height), (2 * height + 3, width + stride + 1)]


def _trace(model: ExportedModel, img_size: tuple[int, int], any_size: bool) -> ExportedProgram:
    """Deploy a copy of the model for images of one size (h, w), or of any, and trace it with any batch size."""
    deployed = copy.deepcopy(model)
    stride = deployed.backbone.out_stride
    deployed.backbone.switch_to_deploy(None if any_size else [tuple(-(-side // stride) for side in img_size)])
    images = torch.zeros(2, model.in_channels, *img_size)  # tracing may make a batch of 1 a constant
    axes = {0: Dim('batch')}
    if any_size:  # tracing would make a map one token high or wide a case of its own
        axes.update({2: Dim('height', min=stride + 1), 3: Dim('width', min=stride + 1)})
    with torch.no_grad():
        program = torch.export.export(deployed, (images, ), dynamic_shapes=(axes, ), strict=False)
    for node in program.graph.nodes:
        node.meta.pop('stack_trace', None)  # has paths of this machine, which both formats would store
    return program


def _write(program: ExportedProgram, path: Path, file_format: str, names: list[str], any_size: bool,
           preprocessing: dict) -> None:
    """Write a traced model. In ONNX a model over 2 GB becomes two files, with the weights in ``{path}.data``."""
    text = json.dumps(preprocessing)
    if file_format == 'torch-export':
        torch.export.save(program, path, extra_files={'preprocessing.json': text})
        return
    axes = {0: 'batch', **({2: 'height', 3: 'width'} if any_size else {})}  # their names
    converted = torch.onnx.export(program, dynamo=True, input_names=['images'], output_names=names,
                                  dynamic_shapes=(axes, ), verbose=False)
    converted.model.metadata_props['preprocessing'] = text
    # No value_info: runtimes infer the shapes within the graph. ONNX Runtime's quantizer transposes weights, and then
    # stumbles over the recorded shapes. A value with nothing of these three gets no entry.
    for node in converted.model.graph:
        for value in (*node.inputs, *node.outputs):
            if value is not None and not (value.is_graph_input() or value.is_graph_output()):
                value.shape = value.type = None
                value.metadata_props.clear()
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
def max_difference(path: Path, file_format: str, model: ExportedModel, sizes: Sequence[tuple[int, int]]) -> Exported:
    """Compare the outputs of a file with those of the model, on random images in batches of several sizes.

    Args:
        path (Path): The file.
        file_format (str): 'onnx' or 'torch-export'.
        model (ExportedModel): The model as trained, not deployed.
        sizes (Sequence[tuple[int, int]]): Image sizes (h, w) in pixels, from :func:`sizes_to_check`.

    Returns:
        Exported: Its difference is NaN if the file or the model computes a NaN.

    Raises:
        UserError: If the file cannot be run, or returns other shapes than the model.
    """
    generator, worst, run = torch.Generator().manual_seed(0), torch.zeros(()), None
    for size, batch in itertools.product(sizes, CHECKED_BATCHES):
        shape = (model.in_channels, *size)
        images = torch.randn(batch, *shape, generator=generator)
        expected = _as_tuple(model(images))
        on = f'a batch of {batch}{"" if len(sizes) == 1 else f" images of {size[0]} x {size[1]} px"}'
        try:
            run = run or _open(path, file_format)
            found = run(images)
        except Exception as error:  # each runtime has its own exceptions
            reason = f'{type(error).__name__}: {error}'.splitlines()[0]
            raise UserError(f'the exported file does not run on {on} ({reason})') from error
        shapes = [[tuple(x.shape) for x in outputs] for outputs in (found, expected)]
        if shapes[0] != shapes[1]:
            raise UserError(f'the exported file returns {shapes[0]} for {on}, and PyTorch {shapes[1]}')
        for one, other in zip(found, expected):
            worst = torch.maximum(worst, (one - other).abs().max())  # keeps NaN, unlike max()
    return Exported(float(worst), shape, dict(zip(model.output_names(), [x[1:] for x in shapes[1]])))


def export_checkpoint(cfg: Config, checkpoint: str | Path, path: str | Path, file_format: str,
                      img_size: tuple[int, int] | str | None = None, backbone_only: bool = False,
                      force: bool = False) -> Exported:
    """Export a checkpoint with its config. The file is written only if it computes the same as the model.

    Args:
        cfg (Config): See :func:`pervit_mm.apis.exported_model.load_model`.
        checkpoint (str | Path): See there.
        path (str | Path): File to write.
        file_format (str): 'onnx' or 'torch-export'.
        img_size (tuple[int, int] | str, optional): (h, w) in pixels, or :data:`ANY_SIZE`. Defaults to None, what the
            config tests with.
        backbone_only (bool): See there. Defaults to False.
        force (bool): Whether an existing file may be replaced. Defaults to False.

    Returns:
        Exported: Its difference is at most :data:`TOLERANCE`.

    Raises:
        UserError: For the reasons of ``load_model`` and :func:`export_checked`, or if there is no image size.
            Nothing is written then.
    """
    check_request(path, file_format, force)  # before the model is built, which takes seconds
    model = load_model(cfg, checkpoint, backbone_only)
    img_size = img_size or image_size_of(cfg)
    if img_size is None:
        raise UserError('the test pipeline of the config brings images of several sizes: give --img-size H W, or '
                        '--img-size any if the file is to take any')
    return _export(model, Path(path), file_format, img_size, preprocessing_of(cfg))


def export_checked(model: ExportedModel, path: str | Path, file_format: str,
                   img_size: tuple[int, int] | str, preprocessing: dict, force: bool = False) -> Exported:
    """Export a model that is loaded already. The file is written only if it computes the same as the model.

    Args:
        model (ExportedModel): From :func:`pervit_mm.apis.exported_model.load_model`. It is not changed.
        path (str | Path): File to write.
        file_format (str): 'onnx' or 'torch-export'.
        img_size (tuple[int, int] | str): Any (h, w) in pixels, or :data:`ANY_SIZE`.
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


def _export(model: ExportedModel, path: Path, file_format: str, img_size: tuple[int, int] | str,
            preprocessing: dict) -> Exported:
    """Trace the model, write the file beside its target, compare it with the model, and move it to the target."""
    sizes, any_size = sizes_to_check(model, img_size), img_size == ANY_SIZE
    program = _trace(model, sizes[-1], any_size)
    with told(f"'{path}' cannot be written"):
        scratch = tempfile.TemporaryDirectory(prefix=f'.{path.name}.', dir=path.parent)
    with scratch as folder:
        _write(program, draft := Path(folder) / path.name, file_format, model.output_names(), any_size,
               preprocessing)
        exported = max_difference(draft, file_format, model, sizes)
        if not exported.difference <= TOLERANCE:
            raise UserError(f'max abs difference to PyTorch is {exported.difference:.3g}, and {TOLERANCE:g} is '
                            f"allowed: '{path}' is not written")
        for file in Path(folder).iterdir():
            os.replace(file, path.parent / file.name)
    return exported
