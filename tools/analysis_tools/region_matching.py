#!/usr/bin/env python
"""Do tokens know their place? Tokens of two crops of an image with a known offset, matched by largest cosine.

    python tools/analysis_tools/region_matching.py configs/pervit_nano_3e_fashion-mnist.py CHECKPOINT \\
        --prefix teacher.module.backbone.
    python tools/analysis_tools/region_matching.py configs/pervit_nano_3e_fashion-mnist.py --random --recalibrate 8192

CONFIG is that of a classifier; its test images are cropped. A match is right within --tolerance tokens. "chance" is
what a random match reaches.
"""
import argparse
import sys

import pervit_mm  # noqa: F401  registers everything
from pervit_mm.apis.configs import load_config
from pervit_mm.apis.pretraining_scores import score_region_matching
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.markdown import markdown_table


def main(argv=None) -> None:
    """Score, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a classifier')
    parser.add_argument('checkpoint', nargs='?', help='of a classifier or of a pre-training')
    parser.add_argument('--random', action='store_true', help='random weights in place of a checkpoint')
    parser.add_argument('--prefix', default='backbone.', help="what the backbone's keys in the checkpoint begin with; "
                        'default %(default)s')
    parser.add_argument('--crop', type=int, metavar='PX', help='side of the crops; default about 5/7 of the image')
    parser.add_argument('--shift', type=int, metavar='PX', help='from crop to crop; default two tokens')
    parser.add_argument('--images', type=int, default=1000, metavar='N', help='default %(default)s, evenly')
    parser.add_argument('--tolerance', type=float, nargs='+', default=[0., 1.], help='in tokens; default 0 1')
    parser.add_argument('--seed', type=int, default=0, help='draws crops and random weights; default 0')
    parser.add_argument('--recalibrate', type=int, default=0, metavar='N', help='training images from which BatchNorm '
                        'gets its statistics anew, for masked or corrupted pre-training; default 0')
    parser.add_argument('--device', help='such as cpu or cuda:0; default a GPU if there is one')
    args = parser.parse_args(argv)
    if (args.checkpoint is None) != args.random:
        parser.error('give either a checkpoint or --random')
    try:
        found = score_region_matching(
            load_config(args.config), args.checkpoint, prefix=args.prefix, crop=args.crop, shift=args.shift,
            images=args.images, tolerances=args.tolerance, seed=args.seed, recalibration=args.recalibrate,
            device=args.device)
    except UserError as error:
        sys.exit(f'tools/analysis_tools/region_matching.py: {error}')
    print(markdown_table([{'tolerance': f'{tolerance:g}', 'right %': f'{one.accuracy:.1f}',
                           'chance %': f'{one.chance:.1f}', 'tokens': one.tokens}
                          for tolerance, one in zip(args.tolerance, found)]))


if __name__ == '__main__':
    main()
