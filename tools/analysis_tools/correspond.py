#!/usr/bin/env python
"""Show what corresponds in images: points, colors of like parts, and the object that they have in common.

    python tools/analysis_tools/correspond.py pervit_nano_fashion-mnist one.png two.png --cosegment
    python tools/analysis_tools/correspond.py configs/pervit_tiny.py one.jpg two.jpg --weights checkpoint.pth

OUT/pairs.png joins the first image with each other one, at tokens that are each other's nearest neighbor. OUT/pca.png
shows the main components of the descriptors as colors. With --cosegment, OUT/masks gets a mask for each image. The
method is that of Amir et al. 2021, "Deep ViT features as dense visual descriptors". It needs no training, but
scikit-learn.

Images are resized to --size, by default so that the block has 28 x 28 tokens. This is more than the model was trained
with. What distance means to PerViT's position attention there is said by distance_scale in the config.
"""
import argparse
import sys

import pervit_mm  # noqa: F401  registers everything
from pervit_mm.analysis.descriptors import FACETS
from pervit_mm.apis.correspond import correspond
from pervit_mm.apis.images import find_images
from pervit_mm.apis.subject import open_subject
from pervit_mm.utils.errors import UserError


def parse_args(argv=None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='name of a model, or path of a config')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='at least two image files; a folder counts as its '
                        'images')
    parser.add_argument('--weights', help='checkpoint; needed with a config, and for a model that has none')
    parser.add_argument('--block', type=int, default=-1, help='number of the block, from 0, or negative from the end '
                        '(default -1, the last)')
    parser.add_argument('--facet', choices=tuple(FACETS), default='key', help='what describes a token (default key)')
    parser.add_argument('--size', type=int, nargs='+', metavar='PIXELS', help='height and width to which images are '
                        'resized, or one number for both (default: 28 x 28 tokens)')
    parser.add_argument('--pairs', type=int, default=10, help='most pairs that are drawn (default 10)')
    parser.add_argument('--cosegment', action='store_true', help='also find the object that the images have in common')
    parser.add_argument('--out', default='outputs/correspond', metavar='DIR', help='folder of the results (default '
                        'outputs/correspond)')
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: a GPU where there is one)')
    args = parser.parse_args(argv)
    if args.size and (len(args.size) > 2 or min(args.size) < 1):
        parser.error(f'--size takes one positive number or two, height and width, got {args.size}')
    return args


def main(argv=None) -> None:
    """Match the images, and say where the results are."""
    args = parse_args(argv)
    try:
        images = [path for source in args.images for path in find_images(source)]
        subject = open_subject(args.model, args.weights, args.device)
        found = correspond(subject, images, args.out, args.size and (args.size[0], args.size[-1]), args.block,
                           args.facet, args.pairs, args.cosegment)
    except UserError as error:
        sys.exit(f'tools/analysis_tools/correspond.py: {error}')
    print(f'Tokens that are each other\'s nearest neighbor: {", ".join(map(str, found))}. Pictures in {args.out}')


if __name__ == '__main__':
    main()
