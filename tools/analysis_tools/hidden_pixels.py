#!/usr/bin/env python
"""How well a SimMIM or an MAE restores pixels that it doesn't see, beside two predictors that learn nothing.

    python tools/analysis_tools/hidden_pixels.py configs/selfsup/simmim_pervit-nano_1xb128-coslr-5e_fashion-mnist.py \\
        CHECKPOINT configs/pervit_nano_3e_fashion-mnist.py

CONFIG is that of the pre-training, which draws the masks. An MAE whose pixels are normed by patch cannot be scored.
LABELS is the config of a classifier on the same images: its training set makes the mean image, and its test set is
scored. The errors are mean absolute differences in units of the normalized image, that is in standard deviations of
the pixels.
"""
import argparse
import sys

import pervit_mm  # noqa: F401  registers everything
from pervit_mm.apis.configs import load_config
from pervit_mm.apis.pretraining_scores import score_hidden_pixels
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.markdown import markdown_table


def main(argv=None) -> None:
    """Score, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the pre-training')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument('labels', help='config of a classifier on the same images')
    parser.add_argument('--images', type=int, metavar='N', help='images of the test set, evenly; default all')
    parser.add_argument('--seed', type=int, default=0, help='draws the masks; default 0')
    parser.add_argument('--device', help='such as cpu or cuda:0; default a GPU if there is one')
    args = parser.parse_args(argv)
    try:
        found = score_hidden_pixels(load_config(args.config), args.checkpoint, load_config(args.labels),
                                    images=args.images, seed=args.seed, device=args.device)
    except UserError as error:
        sys.exit(f'tools/analysis_tools/hidden_pixels.py: {error}')
    print(markdown_table([{'predictor': name, 'error on hidden pixels': f'{value:.4f}', 'images': found.images}
                          for name, value in (('model', found.model), ('mean image', found.mean_image),
                                              ('nearest visible patch', found.nearest_patch))]))


if __name__ == '__main__':
    main()
