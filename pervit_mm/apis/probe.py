"""The table of baselines of a config: pixels, random weights and a checkpoint, on the same images."""
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device

from ..evaluation import Features, collect_features
from ..evaluation.baselines import Baseline, center_features, check_seeds, measure_features, pixel_features
from ..evaluation.neighbours import NUM_NEIGHBORS
from ..utils.errors import UserError
from .labeled_sets import build_loader, build_sets, check_recalibration, recalibrate_by
from .named_models import check_device
from .scored_backbones import classifier_with_backbone, random_classifier

#: Images of the bank from which BatchNorm of random weights gets its statistics if nothing else is asked for.
RECALIBRATION = 8192


def probe(cfg: Config, checkpoint: str | None = None, *, pixels: bool = False, random: bool = False,
          prefix: str = 'backbone.', recalibration: int = 0, images: int | None = None, bank: int | None = None,
          k: Sequence[int] | None = NUM_NEIGHBORS, shots: int | None = 60, seeds: Sequence[int] = (0, 1, 2),
          full_probe: bool = False, device: str | None = None) -> Iterator[Baseline]:
    """Measure features of a config's data set by k-NN and linear probes, one kind after the other.

    The bank is the training set with the pipeline of the test set. The images that are classified are the test set.

    Args:
        cfg (Config): Of a classifier, with ``train_dataloader`` and ``test_dataloader``.
        checkpoint (str, optional): Path or ``pervit_mm://`` name, of a classifier or of a pre-training. Defaults to
            None, no such row.
        pixels (bool): Whether to measure pixels as they are and minus the bank's mean. Defaults to False.
        random (bool): Whether to measure random weights, with statistics of BatchNorm from the bank. The first of
            ``seeds`` draws them. Defaults to False.
        prefix (str): What the backbone's keys in the checkpoint begin with. Defaults to 'backbone.'.
        recalibration (int): Images of the bank from which BatchNorm of the checkpoint gets its statistics anew, as a
            training on masked images needs it. Defaults to 0, none; random weights get :data:`RECALIBRATION` then.
        images (int, optional): Images of the test set, evenly from its first to its last. Defaults to None, all.
        bank (int, optional): Images of the training set, likewise. Defaults to None, all.
        k (Sequence[int], optional): Neighbors with the whole bank. Defaults to (10, 20, 100, 200). None takes those of
            them that the bank has.
        shots (int, optional): Labeled images of each class where labels are few. Defaults to 60; None leaves few labels
            out.
        seeds (Sequence[int]): Of the draws, at least two. Defaults to (0, 1, 2).
        full_probe (bool): Whether to train a linear probe on the whole bank, too. Defaults to False.
        device (str, optional): Defaults to None, which takes a GPU if there is one.

    Yields:
        Baseline: Pixels, centered pixels, random weights, checkpoint, as far as they are asked for.

    Raises:
        UserError: If nothing is asked for, a number is out of range, the config has no labeled images, or the
            checkpoint doesn't fit; otherwise as :func:`pervit_mm.evaluation.baselines.measure_features`.
    """
    if not (checkpoint or pixels or random):
        raise UserError('nothing to measure: give a checkpoint, pixels (--pixels) or random (--random)')
    check_seeds(seeds)
    check_recalibration(recalibration)
    device = check_device(device or get_device())
    bank_set, query_set = build_sets(cfg, bank, images)
    if k is None:
        k = [count for count in NUM_NEIGHBORS if count <= len(bank_set)] or [1]
    models = []  # all of them ahead of the work, so that mistakes are told at once
    if random:
        models.append((f'random weights (seed {seeds[0]}), recalibrated', random_classifier(cfg, seeds[0]),
                       recalibration or RECALIBRATION))
    if checkpoint:
        name = Path(checkpoint).name + (f', {prefix}' if prefix != 'backbone.' else '')
        models.append((name + (', recalibrated' if recalibration else ''),
                       classifier_with_backbone(cfg, checkpoint, prefix), recalibration))
    loaders = [build_loader(cfg, part) for part in (bank_set, query_set)]

    def measure(name: str, bank: Features, queries: Features) -> Baseline:
        return measure_features(name, bank, queries, k, shots, seeds, full_probe)

    if pixels:
        of_pixels = [pixel_features(loader) for loader in loaders]
        yield measure('pixels', *of_pixels)
        yield measure('pixels, centered', *center_features(*of_pixels))
    for name, model, count in models:
        model.to(device)
        recalibrate_by(cfg, model, bank_set, count)
        yield measure(name, *(collect_features(model, loader, ()) for loader in loaders))
