#!/usr/bin/env python
"""Accuracy of classifiers on images that are occluded, shuffled, filtered, corrupted or attacked.

    python tools/analysis_tools/robustness.py pervit_nano_fashion-mnist pervit_nano_no-position_fashion-mnist

MODEL is a name of the zoo, or CONFIG,CHECKPOINT. Several checkpoints of one config count as one model, and ± is then
the deviation between them. All models get the same images, the same draws and one saliency map.
The folder gets robustness.csv with every run, robustness.md with mean ± deviation over the seeds, and robustness.png
with the curves. A thousand images of Fashion-MNIST take about three minutes a model on one CPU core. Attacks are off by
default: they take longer than all else, and need captum.
"""
import argparse
import sys

import torch
from mmengine.utils import track_iter_progress

import pervit_mm  # noqa: F401  registers everything
from pervit_mm.apis.dense_features import make_folder
from pervit_mm.apis.subject import open_subject
from pervit_mm.evaluation.occlusion import FILLS, received_attention
from pervit_mm.evaluation.robustness import ATTACKS, CLEAN, CONDITIONS, make_attacks, make_conditions, measure
from pervit_mm.evaluation.robustness_report import draw_curves, robustness_table, save_figure, summarize, write_csv
from pervit_mm.utils.atomic_write import replacing
from pervit_mm.utils.errors import UserError


def parse_args(argv=None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='+', metavar='MODEL', help='name of the zoo, or CONFIG,CHECKPOINT')
    parser.add_argument('--images', type=int, default=1000, help='images of the test set, evenly; default %(default)s')
    parser.add_argument('--seeds', type=int, default=3, help='runs of what is drawn by chance; default %(default)s')
    parser.add_argument('--conditions', nargs='*', default=CONDITIONS, choices=CONDITIONS, metavar='NAME',
                        help=f'default all: {", ".join(CONDITIONS)}')
    parser.add_argument('--attacks', nargs='+', default=[], choices=ATTACKS, metavar='NAME',
                        help=f'default none: {", ".join(ATTACKS)}')
    parser.add_argument('--fill', default='zero', choices=FILLS,
                        help='what dropped patches become; default %(default)s')
    parser.add_argument('--saliency-from', metavar='MODEL',
                        help='whose attention orders the patches, for all models; default the first model')
    parser.add_argument('--out', default='work_dirs/robustness', help='output folder; default %(default)s')
    parser.add_argument('--device', help='default a GPU if there is one')
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error(f'--seeds must be at least 1, got {args.seeds}')
    return args


def load(model: str, args: argparse.Namespace):
    """A model and its images."""
    config, _, checkpoint = model.partition(',')
    subject = open_subject(config, checkpoint or None, args.device)
    return subject, subject.load(count=args.images)


def run(args: argparse.Namespace) -> None:
    """Measure every model, and write what was found after each."""
    models = list(dict.fromkeys(args.models))
    source = args.saliency_from or models[0]
    loaded = {model: load(model, args) for model in dict.fromkeys([source, *models])}
    source_subject, source_images = loaded[source]
    for model, (_, images) in loaded.items():
        if images.labels is None:
            raise UserError(f'model={model!r} has a test set without one class for each image, so no accuracy: '
                            'give a classifier')
        if not torch.equal(images.labels, source_images.labels):
            raise UserError(f'model={model!r} and {source!r} must have the same test images: give models whose configs '
                            'have one test set')
    saliency = None
    if {'drop_salient', 'drop_non_salient'} & set(args.conditions):
        saliency = received_attention(source_subject.model, source_subject.normalize(source_images.pixels))
    folder = make_folder(args.out)
    rows = []
    stems = {loaded[model][0].name: model.partition(',')[0] for model in models}
    for model in models:
        subject, images = loaded[model]
        config, _, checkpoint = model.partition(',')
        name = subject.name if stems[subject.name] == config else config  # two configs may have one file name

        def predict(pixels, subject=subject):
            return subject.logits(subject.normalize(pixels))

        conditions = [CLEAN, *make_conditions(args.conditions, images.pixels.shape[-2:], saliency, args.fill),
                      *make_attacks(args.attacks, predict, images.labels)]
        print(model)
        for condition in track_iter_progress(conditions, file=sys.stdout):
            for row in measure(predict, images.pixels, images.labels, condition, range(args.seeds)):
                rows.append(dict(model=name, checkpoint=checkpoint, **row))
        print()
        write_csv(rows, folder / 'robustness.csv')
    summary = summarize(rows)
    table = robustness_table(summary)
    with replacing(folder / 'robustness.md') as file:
        file.write((table + '\n').encode())
    title = f'{len(source_images.pixels)} images, {args.seeds} draws each'
    if saliency is not None:
        title += f', saliency: attention received in {source}'
    save_figure(draw_curves(summary, title), folder / 'robustness.png')
    print(f'{table}\n{folder}: robustness.csv, robustness.md, robustness.png')


def main(argv=None) -> None:
    """Read the command line and run."""
    args = parse_args(argv)
    try:
        run(args)
    except UserError as error:
        sys.exit(f'tools/analysis_tools/robustness.py: {error}')


if __name__ == '__main__':
    main()
