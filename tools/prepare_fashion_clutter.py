#!/usr/bin/env python
"""Draw the images that configs/ablation/clutter reads: an item of Fashion-MNIST in the middle of others, 56 x 56 px.

    python tools/prepare_fashion_clutter.py

Run it from the top of the repository, after "make data" has put Fashion-MNIST into data/fashion_mnist. A second run
does nothing. A run with other settings draws the images anew.
"""
import argparse
import sys

from pervit_mm.datasets import prepare_fashion_clutter
from pervit_mm.utils.errors import UserError


def main(argv=None) -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--root', default='data/fashion_clutter', help='where the images go; default %(default)s')
    parser.add_argument('--fashion-mnist', default='data/fashion_mnist', help='where Fashion-MNIST is; default '
                        '%(default)s')
    parser.add_argument('--train', type=int, default=48000, help='training images; default %(default)s')
    parser.add_argument('--test', type=int, default=10000, help='test images; default %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='default %(default)s')
    args = parser.parse_args(argv)
    try:
        prepare_fashion_clutter(args.root, args.fashion_mnist, args.train, args.test, args.seed)
    except UserError as error:
        sys.exit(f'tools/prepare_fashion_clutter.py: {error}')


if __name__ == '__main__':
    main()
