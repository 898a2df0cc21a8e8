"""Scores that are made once, and again if what they were made of has changed."""
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from ..utils.atomic_write import write_json

#: Raised by hand with each change of the code after which a training or a score comes out otherwise than before.
NUMERICS = 2


def computed_by() -> dict[str, Any]:
    """What computes a training or a score, besides its settings: :data:`NUMERICS`, and torch."""
    return dict(numerics=NUMERICS, torch=torch.__version__)


def fingerprint(path: str | Path) -> str:
    """What tells a file from another one: the first 16 digits of its SHA-256.

    Args:
        path (str | Path): The file.

    Returns:
        str: The digits, or the path itself if no such file is here, as for ``pervit_mm://`` names.
    """
    return sha256(Path(path).read_bytes()).hexdigest()[:16] if Path(path).is_file() else str(path)


def kept_scores(path: str | Path, made_of: dict[str, Any], make: Callable[[], dict]) -> dict:
    """Read scores from a file if they were made of the same things, or else make them and write them there.

    Args:
        path (str | Path): The file, JSON.
        made_of (dict): What the scores depend on: settings, and a :func:`fingerprint` of each file. JSON must be able
            to hold it. :func:`computed_by` is added.
        make (Callable): Makes the scores, a dict that JSON can hold.

    Returns:
        dict: The scores.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / 'scores.json'
        >>> kept_scores(file, dict(images=9), lambda: dict(top1=90.))
        {'top1': 90.0}
        >>> kept_scores(file, dict(images=9), lambda: dict(top1=80.))
        {'top1': 90.0}
        >>> kept_scores(file, dict(images=8), lambda: dict(top1=80.))
        {'top1': 80.0}
    """
    path, made_of = Path(path), json.loads(json.dumps(dict(made_of, **computed_by())))
    if path.is_file():
        found = json.loads(path.read_text())
        if found.get('made_of') == made_of:
            return found['scores']
    scores = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(made_of=made_of, scores=scores))
    return scores
