#!/usr/bin/env python
"""Make a prior file for AttentionPriorHook: where heads should look.

    python tools/make_attention_prior.py fashion-mnist foreground.npz       # where items are on average: absolute
    python tools/make_attention_prior.py center center.npz --sigma 2        # the middle of the image: absolute
    python tools/make_attention_prior.py gaussian near.npz --sigma 1        # around the query: relative
    python tools/make_attention_prior.py ring ring.npz --radii 2 3          # a ring around the query: relative

Lengths are in tokens. pervit_mm/selfsup/prior_files.py says what the file holds.
"""
import argparse
import sys
from pathlib import Path

from pervit_mm.apis.attention_priors import fashion_foreground
from pervit_mm.selfsup.prior_files import center_prior, gaussian_prior, ring_prior, write_prior
from pervit_mm.utils.errors import UserError, told


def main(argv=None) -> None:
    """Make the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kind', choices=('fashion-mnist', 'center', 'gaussian', 'ring'))
    parser.add_argument('out', metavar='FILE.npz')
    parser.add_argument('--grid', nargs=2, type=int, default=(7, 7), metavar=('H', 'W'), help='in tokens; default 7 7')
    parser.add_argument('--sigma', type=float, default=1., help='of center and gaussian; default 1')
    parser.add_argument('--radii', nargs=2, type=float, default=(2., 3.), metavar=('INNER', 'OUTER'),
                        help='of ring; default 2 3')
    parser.add_argument('--root', default='data/fashion_mnist', help='of fashion-mnist; default %(default)s')
    args = parser.parse_args(argv)
    grid = tuple(args.grid)
    try:
        if args.kind == 'fashion-mnist':
            prior = fashion_foreground(args.root, grid)
        elif args.kind == 'ring':
            prior = ring_prior(grid, *args.radii)
        else:
            prior = (center_prior if args.kind == 'center' else gaussian_prior)(grid, args.sigma)
        with told(f'the folder of {args.out!r} cannot be made'):
            Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        write_prior(prior, args.out)
    except UserError as error:
        sys.exit(f'tools/make_attention_prior.py: {error}')
    print(f'{args.out}: {prior.kind}, {grid[0]} x {grid[1]} tokens, {prior.source}')


if __name__ == '__main__':
    main()
