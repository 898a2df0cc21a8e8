#!/usr/bin/env python
"""Make a small folder of JPEG images in ImageNet's layout, to try a recipe without ImageNet.

    python tools/make_image_folder.py data/shapes
    python tools/train.py configs/pervit_tiny.py --work-dir work_dirs/trial --cfg-options \\
        train_dataloader.dataset.data_root=data/shapes \\
        train_dataloader.dataset.classes=data/shapes/classes.txt \\
        val_dataloader.dataset.data_root=data/shapes \\
        val_dataloader.dataset.classes=data/shapes/classes.txt \\
        train_dataloader.batch_size=8 train_dataloader.num_workers=2 \\
        val_dataloader.batch_size=8 val_dataloader.num_workers=2 train_cfg.max_epochs=2
"""
import argparse
import sys

from pervit_mm.datasets.image_folder import SHAPES, make_image_folder
from pervit_mm.utils.errors import UserError


def main(argv=None) -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', help='the folder to make')
    parser.add_argument('--classes', type=int, default=4, help=f'at most {len(SHAPES)}; default 4')
    parser.add_argument('--train', type=int, default=16, help='training images per class; default 16')
    parser.add_argument('--val', type=int, default=4, help='validation images per class; default 4')
    parser.add_argument('--size', type=int, nargs=2, default=(240, 300), metavar=('H', 'W'),
                        help='typical size in pixels; default 240 300')
    parser.add_argument('--seed', type=int, default=0, help='default 0')
    args = parser.parse_args(argv)
    try:
        make_image_folder(args.root, args.classes, args.train, args.val, tuple(args.size), args.seed)
    except UserError as error:
        sys.exit(f'tools/make_image_folder.py: {error}')
    print(f'{args.root}: {args.classes} classes, {args.train} training and {args.val} validation '
          'images each')


if __name__ == '__main__':
    main()
