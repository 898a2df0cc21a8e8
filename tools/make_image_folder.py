#!/usr/bin/env python
"""Make a small folder of JPEG images in ImageNet's layout, to try a recipe without ImageNet.

    python tools/make_image_folder.py data/shapes
    python tools/make_image_folder.py data/custom --items
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

from pervit_mm.datasets.fashion_scenes import FASHION_CLASSES
from pervit_mm.datasets.image_folder import SHAPES, make_image_folder, make_item_folder
from pervit_mm.utils.errors import UserError


def main(argv=None) -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', help='the folder to make')
    parser.add_argument('--items', action='store_true', help='clothes of Fashion-MNIST in color before a ground, in '
                        'place of geometric shapes')
    parser.add_argument('--fashion-mnist', default='data/fashion_mnist', metavar='FOLDER', help='for --items; default '
                        '%(default)s')
    parser.add_argument('--classes', type=int, help=f'at most {len(SHAPES)}, default 4; of items at most '
                        f'{len(FASHION_CLASSES)}, the default')
    parser.add_argument('--train', type=int, help='training images per class; default 16, of items 120')
    parser.add_argument('--val', type=int, help='validation images per class; default 4, of items 60')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help='size in pixels; default 240 300, and '
                        'each side up to a quarter more; of items 64 64')
    parser.add_argument('--seed', type=int, default=0, help='default 0')
    args = parser.parse_args(argv)
    try:
        classes, train, val, size = (default if given is None else given for given, default in zip(
            (args.classes, args.train, args.val, args.size), (10, 120, 60, (64, 64)) if args.items else
            (4, 16, 4, (240, 300))))
        if args.items:
            make_item_folder(args.root, args.fashion_mnist, classes, train, val, tuple(size), args.seed)
        else:
            make_image_folder(args.root, classes, train, val, tuple(size), args.seed)
    except UserError as error:
        sys.exit(f'tools/make_image_folder.py: {error}')
    print(f'{args.root}: {classes} classes, {train} training and {val} validation images each')


if __name__ == '__main__':
    main()
