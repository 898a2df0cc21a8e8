"""From the checkpoint of a training to a published one, in ``checkpoints/`` of a clone.

A published file holds the weights, the names and colors of the classes and how images are prepared, and nothing about
the machine that made it. Equal content gives equal bytes, and so the same digest in the name. With the file come its
sha256, the log of its training and, for the tests, outputs of the model: later versions of the package must load it and
compute the same.
"""
import datetime
import hashlib
import io
import json
import re
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..apis.building import build_model
from ..apis.configs import input_shape, load_config
from ..apis.flops import count_flops
from ..apis.inputs import KEY as INPUTS
from ..checkpoints.files import check_weights, own_tensor, read_checkpoint, to_bytes
from ..checkpoints.published import FOLDER, SUMS, read_sums
from ..utils.atomic_write import replacing
from ..utils.errors import UserError, told
from .metafile import metafile_entry, read_log

#: Largest file that is published without being forced; setup.py leaves larger ones out of the wheel.
MAX_BYTES = 10_000_000
#: Folder with the recorded outputs of published models, for the tests.
RECORDS = 'tests/data/published'
#: (h, w) of the images for recorded outputs of models that test with images of several sizes. It is not square, so that
#: a test notices a map whose height and width are swapped.
RECORDED_SIZE = (192, 256)


class Published(NamedTuple):
    """What :func:`publish` did.

    Attributes:
        path (Path): The checkpoint.
        sha256 (str): Sum of the checkpoint, in hexadecimal digits.
        had_ema (bool): Whether the weights are averages over the training.
        removed (list[str]): Names of files that this one replaced.
        entry (str): Lines for the metafile.
        has_results (bool): Whether these lines have results, from the logs.
    """
    path: Path
    sha256: str
    had_ema: bool
    removed: list[str]
    entry: str
    has_results: bool


def _plain(value: Any, name: str) -> Any:
    """Copy names and colors. Equal texts become one object, which pickle writes once: equal content, equal bytes."""
    if isinstance(value, str):
        return sys.intern(str(value))
    if isinstance(value, (list, tuple)):  # the type must stay: MMEngine draws a tuple as one color
        return type(value)(_plain(item, name) for item in value)
    if isinstance(value, int):
        return value
    raise UserError(f'meta.dataset_meta.{name} must hold text and whole numbers, got {type(value).__name__}: put the '
                    'names of the classes there, as MMEngine does')


def _meta_of(content: Mapping) -> Mapping:
    meta = content.get('meta') or {}
    if not isinstance(meta, Mapping):
        raise UserError(f"checkpoint['meta'] must be a dict, as MMEngine's runner saves it, got {type(meta).__name__}")
    return meta


def strip_checkpoint(content: Any) -> dict:
    """Keep what inference needs: weights, versions of their modules, names and colors of the classes, normalization.

    MMEngine's ``EMAHook`` swaps weights before saving. So ``state_dict`` holds the averages if there are any, and
    ``ema_state_dict`` holds the weights that are not averaged. The latter is dropped, like the states of optimizer,
    schedulers and logger.

    Args:
        content (dict): What MMEngine's runner saved.

    Returns:
        dict: ``state_dict``, with contiguous tensors on the CPU, and ``meta``, which has ``dataset_meta`` and
        ``inputs`` (how images are prepared) as far as the checkpoint has them.

    Raises:
        UserError: If the content has no state dict of dense tensors.
    """
    state = content.get('state_dict') if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        found = ', '.join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise UserError("checkpoint must be a dict whose 'state_dict' maps names to tensors, as MMEngine's runner "
                        f'saves it; this one holds {found or "nothing"}')
    check_weights(state, 'checkpoint')
    weights = OrderedDict((sys.intern(key), own_tensor(value.cpu())) for key, value in state.items())
    # Modules find the `_version` of the file here when they load it, so that later versions can rename weights.
    weights._metadata = OrderedDict(
        (sys.intern(key), {sys.intern('version'): value['version']})
        for key, value in getattr(state, '_metadata', {}).items() if 'version' in value)
    saved = _meta_of(content)
    known = saved.get('dataset_meta') or {}
    meta = {sys.intern(name): _plain(known[name], name) for name in ('classes', 'palette') if known.get(name)}
    stripped = dict(dataset_meta=meta) if meta else {}
    if inputs := saved.get(INPUTS):
        # Only plain values pass through JSON, and each time in the same order: the bytes make the file's name.
        with told(f'meta.{INPUTS} must hold text and numbers: save the checkpoint again with PerViTRunner', TypeError):
            stripped[INPUTS] = json.loads(json.dumps(inputs, sort_keys=True))
    return dict(state_dict=weights, meta=stripped)


@torch.no_grad()
def recorded_outputs(model: nn.Module, cfg: Config) -> np.ndarray:
    """Outputs that a published model must always compute, for two images made by integer arithmetic.

    Args:
        model (nn.Module): From :func:`build_model`.
        cfg (Config): Its config.

    Returns:
        np.ndarray: Of a classifier the logits ``(2, num_classes)``. Of maps the mean, the four corners and the center
        of each channel, ``(2, 6 * sum of channels)``. The maps of a segmentor are its logits. The maps of a detector
        are the levels of its features, because its heads choose among boxes, so their outputs may jump. Of the tokens
        of a pre-training the mean, the first, the last and the middle one, ``(2, 4 * C)``.
    """
    shape = (2, *input_shape(cfg, RECORDED_SIZE))
    steps = torch.arange(int(np.prod(shape)))
    images = ((steps * steps * 7919 % 251) / 125. - 1.).reshape(shape)
    outputs = model.extract_feat(images) if cfg.get('default_scope') == 'mmdet' else model(images)
    levels = (outputs, ) if isinstance(outputs, Tensor) else tuple(outputs)
    return torch.cat([_landmarks(x) for x in levels], 1).numpy()


def _landmarks(x: Tensor) -> Tensor:
    """Mean and single places of maps ``(B, C, H, W)`` or tokens ``(B, N, C)``, because a mean would not show moves."""
    if x.dim() == 2:
        return x
    if x.dim() == 3:
        return torch.cat([x.mean(1), x[:, 0], x[:, -1], x[:, x.shape[1] // 2]], 1)
    height, width = x.shape[2:]
    places = [(0, 0), (0, -1), (-1, 0), (-1, -1), (height // 2, width // 2)]
    return torch.cat([x.mean((2, 3)), *(x[:, :, row, column] for row, column in places)], 1)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as writer:
        writer.write(content)


def _write_all(root: Path, name: str, files: Mapping[str, bytes], outputs: np.ndarray, replace: bool) -> list[str]:
    """Write the files, their sums, and the recorded outputs of the first. Returns the names of replaced files."""
    folder, record = root / FOLDER, root / RECORDS / f'{name}.npz'
    earlier = re.compile(rf'{re.escape(name)}_\d{{8}}-[0-9a-f]{{8}}\.(pth|log\.json)')
    sums = read_sums(folder)
    removed = [file for file in sums if replace and earlier.fullmatch(file) and file not in files]
    new = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    for file in new:
        if sums.get(file, new[file]) != new[file] and not replace:
            raise UserError(f"'{folder / file}' is published already, with other content: give --replace, or the "
                            'log that it was published with')
    sums = {file: digest for file, digest in {**sums, **new}.items() if file not in removed}
    for file, content in files.items():
        _write(folder / file, content)
    _write(folder / SUMS, ''.join(f'{sums[file]}  {file}\n' for file in sorted(sums)).encode())
    records = dict(np.load(record)) if record.is_file() else {}
    records = {file: value for file, value in records.items() if file in sums}
    buffer = io.BytesIO()
    np.savez(buffer, **{next(iter(files)): outputs, **records})  # outputs that are recorded already stay
    _write(record, buffer.getvalue())
    for file in removed:
        (folder / file).unlink(missing_ok=True)
    return removed


def publish(config: str | Path, checkpoint: str | Path, root: str | Path, logs: Sequence[str | Path] = (),
            date: str | None = None, replace: bool = False, max_bytes: int | None = MAX_BYTES,
            command: str | None = None) -> Published:
    """Publish a checkpoint: check it, and write all files that belong to it.

    Args:
        config (str | Path): Its config file, in ``root``. The file's stem is the model's name.
        checkpoint (str | Path): A file that MMEngine's runner saved.
        root (str | Path): Top level of a clone.
        logs (Sequence[str | Path]): For :func:`pervit_mm.publishing.metafile.read_log`. Defaults to none.
        date (str, optional): YYYYMMDD. Defaults to None, which is today.
        replace (bool): Whether earlier files of this model are removed. Defaults to False, because published files
            should stay.
        max_bytes (int, optional): Largest size in bytes, or None for any. Defaults to :data:`MAX_BYTES`.
        command (str, optional): The command that trained it. Defaults to None, tools/train.py with the config alone.

    Returns:
        Published: The checkpoint, and the lines for the metafile.

    Raises:
        UserError: If config, date, checkpoint, logs or size don't fit, or a file of this name is published with other
            content. Nothing is written then.
    """
    root, config = Path(root).resolve(), Path(config).resolve()
    if root not in config.parents or not (root / 'model-index.yml').is_file() or root.name == '.mim':
        raise UserError(f"config must be in a clone of the repository, and '{config}' is not in '{root}', or that is "
                        'none: publish from a clone')
    date = date or datetime.date.today().strftime('%Y%m%d')
    if not re.fullmatch(r'\d{8}', date):
        raise UserError(f'date must be YYYYMMDD, got {date!r}')
    content, cfg = read_checkpoint(checkpoint), load_config(config)
    stripped = strip_checkpoint(content)
    data, meta = to_bytes(stripped), _meta_of(content)
    log, measured = read_log(logs, {meta[key] for key in ('epoch', 'iter') if isinstance(meta.get(key), int)})
    if max_bytes is not None and len(data) > max_bytes:
        raise UserError(f"'{checkpoint}' is {len(data):,} bytes when stripped, and {max_bytes:,} is the limit of what "
                        'is kept in the repository and its wheel; --force-size publishes it all the same')
    model = build_model(cfg, stripped['state_dict'])
    count = count_flops(model, input_shape(cfg))
    name, digest = config.stem, hashlib.sha256(data).hexdigest()
    stem = f'{name}_{date}-{digest[:8]}'
    file, log_file = f'{stem}.pth', f'{stem}.log.json' if logs else None
    removed = _write_all(root, name, {file: data, **({log_file: log} if log_file else {})},
                         recorded_outputs(model, cfg), replace)
    relative = config.relative_to(root).as_posix()
    entry = metafile_entry(name, relative, file, log_file, count, measured,
                           command or f'python tools/train.py {relative}')
    return Published(root / FOLDER / file, digest, 'ema_state_dict' in content, removed, entry, bool(measured))
