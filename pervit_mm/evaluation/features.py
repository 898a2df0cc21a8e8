"""Features of a data set, collected once with a frozen model and, if wanted, kept in a file."""
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..analysis.capture import BlockRecord, capture, find_backbone
from ..checkpoints import check_target, read_checkpoint, write_checkpoint
from ..utils.errors import UserError, UserTypeError
from ..version import __version__

# Entry of a cache file that holds its key. A file without it is something else and is never written over.
_KEY = 'pervit_mm_features'


@dataclass(frozen=True)
class Features:
    """Features of n images, on the CPU.

    Attributes:
        output (Tensor): The last output of the backbone, averaged over its tokens or its map, ``(n, C)`` float32.
        blocks (dict[int, Tensor]): Mean over the tokens after each chosen block, before any output norm, ``(n, C)``
            float32.
        labels (Tensor, optional): Classes, ``(n,)`` int64; None if the images have none.
    """

    output: Tensor
    blocks: dict[int, Tensor]
    labels: Tensor | None

    def joined(self, blocks: Sequence[int]) -> Tensor:
        """Features of several blocks side by side.

        Args:
            blocks (Sequence[int]): Numbers of the blocks, from 0.

        Returns:
            Tensor: ``(n, sum of the blocks' C)``.

        Raises:
            UserError: If there is no block, or one was not collected.
        """
        if not blocks or not set(blocks) <= set(self.blocks):
            raise UserError(f'blocks must name blocks whose features were collected, {sorted(self.blocks)}, got '
                            f'{list(blocks)}: collect the features again with these blocks')
        return torch.cat([self.blocks[index] for index in blocks], dim=1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients. Each module gets its own mode back, also after an exception.

    ``model.train()`` at the end would be wrong: it would also switch on what was frozen by hand.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def read_batch(model: nn.Module, batch: Mapping | Sequence) -> tuple[Tensor, Tensor | None]:
    """Inputs of the network and labels from a batch.

    Args:
        model (nn.Module): Its data preprocessor prepares the batches of a data loader.
        batch (Mapping | Sequence): A batch of MMEngine's data loader, or a pair of inputs ``(B, C, h, w)``, which are
            normalized already, and labels ``(B,)`` or None.

    Returns:
        tuple[Tensor, Tensor | None]: Inputs on the model's device; labels, or None if there are none.

    Raises:
        UserError: If the batch is neither, the model has no data preprocessor, or labels are not one class an image.
    """
    if isinstance(batch, Mapping):
        prepare = getattr(getattr(model, 'module', model), 'data_preprocessor', None)
        if prepare is None:
            raise UserError(f'model {type(model).__name__} has no data_preprocessor for the batches of a data loader: '
                            'give the whole classifier, or pairs (inputs, labels)')
        data = prepare(dict(batch), False)
        inputs, samples = data['inputs'], data.get('data_samples') or []
        labels = [sample.gt_label for sample in samples if 'gt_label' in sample]
        labels = torch.cat(labels) if labels else None
    elif isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[0], Tensor):
        inputs, labels = batch
    else:
        raise UserTypeError('batches must hold pairs (inputs, labels) or dicts of a data loader, got '
                            f'{type(batch).__name__}: wrap the tensors as (inputs, labels)')
    if labels is not None and labels.shape != inputs.shape[:1]:
        raise UserError(f'labels must be one class for each of the {len(inputs)} images, got the shape '
                        f'{tuple(labels.shape)}: evaluate images with a single label')
    return to_model(model, inputs), labels


def to_model(model: nn.Module, inputs: Tensor) -> Tensor:
    """Inputs on the device of the model. A model without weights, which may stand for raw pixels, takes any."""
    first = next(model.parameters(), inputs)
    return inputs.to(first.device)


def collect_features(model: nn.Module, batches: Iterable, blocks: Sequence[int] | None = None) -> Features:
    """Run a model over a data set once, without gradients, and keep one vector for each image and block.

    Args:
        model (nn.Module): A classifier, detector, segmentor or bare backbone. It is run in eval mode and left as it
            was. Any backbone will do for the output alone; :func:`pervit_mm.analysis.capture` says which have blocks.
        batches (Iterable): A data loader, or batches, see :func:`read_batch`.
        blocks (Sequence[int], optional): Numbers of the blocks, from 0; ``()`` for the output alone. Defaults to None,
            all blocks that run.

    Returns:
        Features: In the order of ``batches``.

    Raises:
        UserError: If there is no batch, a block doesn't run, some images have labels and others have none, or the
            backbone's output is no vector, token sequence or map.
    """
    backbone = find_backbone(model)

    def mean_of(block: BlockRecord) -> tuple[int, Tensor] | None:
        return (block.index, _mean(block.output, 1)) if blocks is None or block.index in blocks else None

    outputs, labels, means = [], [], {}
    with evaluating(model):
        for batch in batches:
            inputs, truth = read_batch(model, batch)
            recording = capture(model, attention=False, features=True, each=mean_of)
            with recording if blocks is None or len(blocks) else nullcontext(()) as record:
                outputs.append(_pool(backbone(inputs), getattr(backbone, 'num_extra_tokens', 0)))
            for index, mean in filter(None, record):
                means.setdefault(index, []).append(mean)
            if missing := sorted(set(blocks or ()) - set(means)):
                raise UserError(f'blocks names {missing}, and no such block of {type(backbone).__name__} runs: blocks '
                                'count from 0 to that of the last of out_indices')
            labels.append(truth)
    if not outputs:
        raise UserError('batches is empty: give a data loader, or a list of batches, with at least one image')
    if len({truth is None for truth in labels}) == 2:
        raise UserError('some batches have labels and others have none: give labels for all images, or for none')
    return Features(
        torch.cat(outputs), {index: torch.cat(parts) for index, parts in means.items()},
        None if labels[0] is None else torch.cat(labels).long().cpu())


def cached_features(path: str | Path, config: str, model: nn.Module, batches: Iterable,
                    blocks: Sequence[int] | None = None) -> Features:
    """:func:`collect_features`, read from a file if it holds the same; otherwise collected, and the file written.

    The file's key holds a digest of the weights, ``config``, the blocks, and the versions of pervit_mm and PyTorch. If
    one of them differs, the features are collected again. Images that change behind an unchanged ``config`` are not
    noticed: remove the file then.

    Args:
        path (str | Path): The file, in a folder that exists.
        config (str): All else that the features depend on: which images, in which order, prepared how, and the options
            of the model. ``cfg.pretty_text`` of the whole config is always enough.
        model (nn.Module): See :func:`collect_features`.
        batches (Iterable): See :func:`collect_features`. Not touched if the file is used.
        blocks (Sequence[int], optional): See :func:`collect_features`. Defaults to None, all blocks that run.

    Returns:
        Features: In the order of ``batches``.

    Raises:
        UserError: As :func:`collect_features`; if the file is damaged or holds something else, or can't be written.
    """
    if not isinstance(config, str):
        raise UserTypeError(f'config must be text, got {type(config).__name__}: give cfg.pretty_text')
    check_target(path, force=True)  # ahead of the work, not after it
    key = dict(weights=weights_digest(model), config=config, blocks=None if blocks is None else sorted(blocks),
               pervit_mm=__version__, torch=str(torch.__version__))
    if Path(path).exists():
        content = read_checkpoint(path)
        if not isinstance(content, Mapping) or _KEY not in content:
            raise UserError(f"path: '{path}' holds no features and is left as it is: name another file")
        if content[_KEY] == key:
            return Features(**content['features'])
    features = collect_features(model, batches, blocks)
    write_checkpoint({_KEY: key, 'features': vars(features)}, path, force=True)
    return features


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of all that a model computes with: its modules, parameters and buffers.

    Buffers that no checkpoint has count too: a data preprocessor keeps mean and deviation in such.

    Args:
        model (nn.Module): Any model.

    Returns:
        str: 64 hexadecimal digits.
    """
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_labeled(name: str, features: Tensor, labels: Tensor | None) -> None:
    """Raise UserError unless these are finite features of at least one image, and a class for each.

    Args:
        name (str): What they are, for the message.
        features (Tensor): Expected to be ``(n, C)``, floating point.
        labels (Tensor): Expected to be ``(n,)``, integers from 0.

    Raises:
        UserError: With what is wrong.
    """
    if labels is None:
        raise UserError(f'the {name} features have no labels: collect them from images with labels')
    if features.dim() != 2 or not len(features) or not features.is_floating_point():
        raise UserError(f'the {name} features must be floating point (n, C), got {features.dtype} of '
                        f'{tuple(features.shape)}: flatten all axes after the first')
    if labels.shape != features.shape[:1] or labels.is_floating_point() or labels.min() < 0:
        raise UserError(f'the {name} labels must be {len(features)} integers from 0, one for each row of the '
                        f'features, got {labels.dtype} of {tuple(labels.shape)}: give class numbers, not one-hot rows')
    if not features.isfinite().all():
        raise UserError(f'the {name} features hold NaN or infinity: look for what the model computes them from')


def percent_correct(predicted: Any, labels: Any) -> float:
    """Top-1 accuracy in percent of two arrays or tensors of classes."""
    return 100. * float((predicted == labels).sum()) / len(labels)


def _mean(x: Tensor, axes: int | tuple[int, int]) -> Tensor:
    """Mean over axes, made in float32 or wider, kept as float32 on the CPU."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).mean(axes).float().cpu()


def _pool(output: Any, num_extra_tokens: int) -> Tensor:
    """One vector ``(B, C)`` for each image from what a backbone returns."""
    last = output[-1] if isinstance(output, (tuple, list)) and output else output
    if isinstance(last, Tensor) and last.dim() == 4:
        return _mean(last, (2, 3))
    if isinstance(last, Tensor) and last.dim() == 3:
        return _mean(last[:, num_extra_tokens:], 1)
    if isinstance(last, Tensor) and last.dim() == 2:
        return last.float().cpu()
    raise UserError('the last output of the backbone must be (B, C), (B, N, C) or (B, C, H, W), got '
                    f'{tuple(last.shape) if isinstance(last, Tensor) else type(last).__name__}: choose another '
                    'out_type')
