#!/usr/bin/env python
"""What a trained model sees, as one HTML page and as JSON.

    python tools/analysis_tools/report.py pervit_nano_fashion-mnist
    python tools/analysis_tools/report.py CONFIG CHECKPOINT shots/*.jpg --out report

The page needs no script and no network. Without images, the test set of the config is used.
"""
import argparse
import sys

import pervit_mm  # noqa: F401  registers everything
from pervit_mm.apis.report import View, report_on, split_model
from pervit_mm.utils.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    """What report.py and compare.py have in common."""
    parser.add_argument('--out', default='work_dirs/report', metavar='FOLDER', help='default %(default)s')
    parser.add_argument('--count', type=int, default=64, help='images of the test set; default %(default)s')
    parser.add_argument('--shown', type=int, default=4, help='images that get pictures; default %(default)s')
    parser.add_argument('--blocks', type=int, nargs='+', help='blocks whose maps are shown; default three of them')
    parser.add_argument('--query', type=int, nargs=2, action='append', metavar=('ROW', 'COLUMN'),
                        help='token whose maps are shown; may be given several times; default the center')
    parser.add_argument('--edges', type=float, nargs='+', metavar='TOKENS',
                        help='edges of the rings; default 1.5 3.5 6.5 on 14 x 14 tokens, scaled with the grid')
    parser.add_argument('--scale', choices=('map', 'unit'), default='map',
                        help='colors of each map from its least to its largest value, or from 0 to 1')
    parser.add_argument('--sort', action='store_true', help='sort heads by how far they reach')
    parser.add_argument('--device', help='such as cpu or cuda:0; default a GPU if there is one')


def run(tool: str, models: list, images: list, args: argparse.Namespace) -> None:
    """Measure and write, and print where."""
    try:
        view = View([tuple(query) for query in args.query or ()], args.scale, args.sort)
        page, unreadable = report_on(models, args.out, images, args.count, args.shown, args.blocks, args.edges, view,
                                     args.device)
    except UserError as error:
        sys.exit(f'{tool}: {error}')
    print(f'\nReport: {page}')
    if unreadable:
        sys.exit(f'{tool}: {"; ".join(unreadable)}. The others are in the report')


def main(argv=None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('words', nargs='+', metavar='MODEL [CHECKPOINT] [IMAGES]',
                        help='name of the zoo, or config and checkpoint; then image files, folders or patterns')
    add_options(parser)
    args = parser.parse_args(argv)
    tool = 'tools/analysis_tools/report.py'
    try:
        model, weights, images = split_model(args.words)
    except UserError as error:
        sys.exit(f'{tool}: {error}')
    run(tool, [(model, weights)], images, args)


if __name__ == '__main__':
    main()
