"""From names of models and image files to a report, with a progress bar."""
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.utils import ProgressBar

from ...analysis.study import count_steps
from ...utils.errors import UserError
from ..images import find_images
from ..named_models import models_by_name
from ..subject import open_subject
from .cases import make_case
from .section import View
from .write import make_report


def split_model(words: Sequence[str]) -> tuple[str, str | None, list[str]]:
    """Tell model, checkpoint and images apart in ``NAME [IMAGES]`` or ``CONFIG CHECKPOINT [IMAGES]``.

    A name without published weights needs a checkpoint as a config does.

    Args:
        words (Sequence[str]): At least one.

    Returns:
        tuple[str, str | None, list[str]]: The model, its checkpoint (None for published weights), and images.

    Raises:
        UserError: If a checkpoint is missing.
    """
    (model, *rest), known = words, models_by_name()
    if model in known and known[model][1]:
        return model, None, rest
    if not rest:
        what = 'has no published weights' if model in known else f'is no name of the zoo ({", ".join(known)})'
        raise UserError(f'model={model!r} {what}, so a checkpoint must follow it: give MODEL CHECKPOINT')
    return model, rest[0], rest[1:]


def report_on(models: Sequence[tuple[str, str | None]], out_dir: str | Path, images: Sequence[str] = (),
              count: int = 64, shown: int = 4, blocks: Sequence[int] | None = None,
              edges: Sequence[float] | None = None, view: View | None = None, device: str | None = None
              ) -> tuple[Path, list[str]]:
    """Measure one model or two on the same images, and write the report.

    Args:
        models (Sequence[tuple[str, str | None]]): Name and checkpoint of each, as
            :func:`pervit_mm.apis.subject.open_subject` takes them.
        out_dir (str | Path): Output folder.
        images (Sequence[str]): Files, folders or patterns. Defaults to none, the test set of each config.
        count (int): Images of the test set. Defaults to 64.
        shown (int): The first so many images get pictures. Defaults to 4.
        blocks (Sequence[int], optional): Blocks whose maps are shown. Defaults to None, three of them.
        edges (Sequence[float], optional): Edges of the rings in tokens. Defaults to None, those for the grid.
        view (View, optional): What is drawn. Defaults to None, the center query in its own colors.
        device (str, optional): Defaults to None, which takes a GPU if there is one.

    Returns:
        tuple[Path, list[str]]: The page, and a sentence for each file that could not be read.

    Raises:
        UserError: As the functions above.
    """
    view = view or View()
    files = [file for source in images for file in find_images(source)]
    loaded = [(subject, subject.load(files or None, count))
              for subject in (open_subject(model, weights, device) for model, weights in models)]
    steps = sum(count_steps(subject.model, subject.normalize(batch.pixels)) + 1 for subject, batch in loaded)
    bar = ProgressBar(steps, file=sys.stdout)
    if len({subject.name for subject, _ in loaded}) < len(loaded):  # checkpoints of one config
        for (subject, _), (_, weights) in zip(loaded, models):
            subject.name += f' ({"/".join(Path(weights).with_suffix("").parts[-2:])})' if weights else ''
    cases = [make_case(subject, batch, shown, blocks, edges, view.query, bar.update) for subject, batch in loaded]
    return make_report(cases, out_dir, view), list(dict.fromkeys(
        sentence for _, batch in loaded for sentence in batch.unreadable))
