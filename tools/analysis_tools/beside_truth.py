#!/usr/bin/env python
"""Draw what a segmentor says of labeled images beside the truth, as one picture.

    python tools/analysis_tools/beside_truth.py pervit-nano_fpn_fashion-scenes
    python tools/analysis_tools/beside_truth.py CONFIG --weights FILE --split val --images 0 5 9 --out picture.png

The images are those of the config's test or validation set, by their numbers from 0. A row has an image, the truth and
the prediction. The colors are those of the data set, and the last lines name them.
"""
import argparse
import sys
from pathlib import Path

import pervit_mm  # noqa: F401  registers everything
from pervit_mm.apis.beside_truth import SPLITS, beside_truth
from pervit_mm.apis.dense_features import write_picture
from pervit_mm.apis.inference import ImagePredictor
from pervit_mm.utils.errors import UserError


def main(argv=None) -> None:
    """Draw, and say where the picture is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='name of a segmentor, or path of its config')
    parser.add_argument('--weights', help='checkpoint; needed with a config, and for a model that has none')
    parser.add_argument('--split', choices=SPLITS, default='test', help='data set of the config (default test)')
    parser.add_argument('--images', type=int, nargs='+', default=[0, 1, 2, 3], metavar='N',
                        help='numbers of images (default 0 1 2 3)')
    parser.add_argument('--cell', type=int, default=224, metavar='PIXELS', help='longer side of an image (default 224)')
    parser.add_argument('--out', default='outputs/beside_truth.png', metavar='FILE', help='default %(default)s')
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: a GPU where there is one)')
    args = parser.parse_args(argv)
    try:
        predictor = ImagePredictor(args.model, args.weights, args.device)
        write_picture(beside_truth(predictor, args.images, args.split, args.cell), Path(args.out))
    except UserError as error:
        sys.exit(f'tools/analysis_tools/beside_truth.py: {error}')
    print(f'{len(args.images)} images: {args.out}')


if __name__ == '__main__':
    main()
