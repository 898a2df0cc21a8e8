#!/usr/bin/env python
"""What two trained models see, side by side, as one HTML page and as JSON.

    python tools/analysis_tools/compare.py pervit_nano_fashion-mnist pervit_nano_no-position_fashion-mnist
    python tools/analysis_tools/compare.py CONFIG,CHECKPOINT CONFIG,CHECKPOINT --images shots

Two checkpoints of one architecture, or two architectures. Blocks of both are also compared with each other (CKA).
"""
import argparse

from report import add_options, run

import pervit_mm  # noqa: F401  registers everything


def main(argv=None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs=2, metavar='MODEL', help='name of the zoo, or CONFIG,CHECKPOINT')
    parser.add_argument('--images', nargs='+', default=[], help='image files, folders or patterns; default the test '
                        'set of each config')
    add_options(parser)
    parser.set_defaults(out='work_dirs/compare')
    args = parser.parse_args(argv)
    models = [(model, weights or None) for model, _, weights in (text.partition(',') for text in args.models)]
    run('tools/analysis_tools/compare.py', models, args.images, args)


if __name__ == '__main__':
    main()
