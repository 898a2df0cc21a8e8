#!/usr/bin/env python
"""Carry the mask of a video's first frame through the other frames, by the likeness of a model's features.

    python tools/analysis_tools/propagate.py pervit_nano_fashion-mnist frames mask.png
    python tools/analysis_tools/propagate.py configs/pervit_tiny.py frames mask.png --weights FILE --protocol sfc

FRAMES is a folder of images of one size, whose order is that of their names. MASK is a gray or palette PNG of the size
of the first frame, with a number for each label and 0 for the background. For each frame, OUT/masks gets a PNG with the
same numbers, and OUT/overlays a picture.

With the protocol dino, a token takes the labels of the 5 tokens most like it. They come from the first frame and the 7
frames before, at most 12 tokens away. With sfc there are 15 of them, from the first frame at any distance and from the
20 frames before, less than 15 tokens away.

The last block of a classifier may tell classes apart better than places. If labels leak, try --block with one in the
middle.

Frames are resized to --size, by default so that the block has 28 x 28 tokens. This is more than the model was trained
with. What distance means to PerViT's position attention there is said by distance_scale in the config.
"""
import argparse
import sys
from pathlib import Path

import pervit_mm  # noqa: F401  registers everything
from pervit_mm.analysis.propagation import PROTOCOLS
from pervit_mm.apis.images import find_images
from pervit_mm.apis.propagate import propagate
from pervit_mm.apis.subject import open_subject
from pervit_mm.utils.errors import UserError


def parse_args(argv=None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='name of a model, or path of a config')
    parser.add_argument('frames', help='folder of the frames, or pattern in quotes')
    parser.add_argument('mask', help='mask of the first frame')
    parser.add_argument('--weights', help='checkpoint; needed with a config, and for a model that has none')
    parser.add_argument('--protocol', choices=tuple(PROTOCOLS), default='dino', help='see above (default dino)')
    parser.add_argument('--block', type=int, nargs='+', default=[-1], metavar='BLOCK', help='number of the block, from '
                        '0, or negative from the end (default -1, the last); two are fused, the first one weighted '
                        'with 1.75')
    parser.add_argument('--size', type=int, nargs='+', metavar='PIXELS', help='height and width to which frames are '
                        'resized, or one number for both (default: 28 x 28 tokens)')
    parser.add_argument('--out', default='outputs/propagate', metavar='DIR', help='folder of the results (default '
                        'outputs/propagate)')
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: a GPU where there is one)')
    args = parser.parse_args(argv)
    if args.size and (len(args.size) > 2 or min(args.size) < 1):
        parser.error(f'--size takes one positive number or two, height and width, got {args.size}')
    return args


def main(argv=None) -> None:
    """Propagate, and say where the results are."""
    args = parse_args(argv)
    try:
        # The mask may lie beside the frames, and is none.
        frames = [path for path in find_images(args.frames) if path.resolve() != Path(args.mask).resolve()]
        subject = open_subject(args.model, args.weights, args.device)
        count = propagate(subject, frames, args.mask, args.out, args.size and (args.size[0], args.size[-1]), args.block,
                          args.protocol)
    except UserError as error:
        sys.exit(f'tools/analysis_tools/propagate.py: {error}')
    print(f'{count} frames: masks in {args.out}/masks, pictures in {args.out}/overlays')


if __name__ == '__main__':
    main()
