"""From names of models and image files to a report, with a progress bar."""
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.utils import ProgressBar

from ...analysis.mosaics import place_of_query
from ...analysis.plan import Plan, check_blocks
from ...utils.errors import UserError
from ..dense_features import make_folder
from ..images import find_images
from ..named_models import models_by_name
from ..subject import Subject, open_subject
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
        UserError: If a checkpoint is missing, or follows a name that has published weights.
    """
    (model, *rest), known = words, models_by_name()
    if model in known and known[model][1]:
        if rest and rest[0].endswith('.pth'):
            raise UserError(f'model={model!r} has its own weights and takes no checkpoint, got {rest[0]!r}: give '
                            f'CONFIG CHECKPOINT, with {known[model][0]}')
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
    out_dir = make_folder(out_dir)  # now, not after minutes
    files = [file for source in images for file in find_images(source)]
    loaded = [(subject, subject.load(files or None, count))
              for subject in (open_subject(model, weights, device) for model, weights in models)]
    _tell_apart([subject for subject, _ in loaded], [weights for _, weights in models])
    plans = [Plan(subject.model, subject.normalize(batch.pixels), edges) for subject, batch in loaded]
    for plan in plans:
        for block in check_blocks(blocks, len(plan.grids)):
            for query in view.queries:
                place_of_query(query, plan.grids[block])
    bar = ProgressBar(sum(plan.steps + 1 for plan in plans), file=sys.stdout)
    cases = [make_case(subject, batch, plan, shown, blocks, bar.update)
             for (subject, batch), plan in zip(loaded, plans)]
    return make_report(cases, out_dir, view), list(dict.fromkeys(
        sentence for _, batch in loaded for sentence in batch.unreadable))


def _tell_apart(subjects: Sequence[Subject], weights: Sequence[str | None]) -> None:
    """Add the checkpoint to the names of models of one config, or raise UserError if that is the same, too."""
    if len({subject.name for subject in subjects}) == len(subjects):
        return
    for subject, file in zip(subjects, weights):
        subject.name += f' ({"/".join(Path(file).with_suffix("").parts[-2:])})' if file else ''
    if len({subject.name for subject in subjects}) < len(subjects):
        raise UserError(f'models are both {subjects[0].name}: give two models, or checkpoints in folders of different '
                        'names')
