"""Draw the scenes of Fashion-MNIST items that the detection and segmentation configs read: data/fashion_scenes.

Run it from the top of the repository, after "make data" has put Fashion-MNIST into data/fashion_mnist:
``python tools/prepare_fashion_scenes.py``. A second run does nothing. A run with other settings draws the scenes anew.

Larger scenes go into a folder of their own: ``--max-side 320 --root data/fashion_scenes_320``.
"""

import argparse
import sys

from pervit_mm.datasets import prepare_fashion_scenes
from pervit_mm.utils.errors import UserError


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Draw scenes of Fashion-MNIST items, with masks, boxes and label maps.')
    parser.add_argument('--root', default='data/fashion_scenes', help='where the scenes go (default: %(default)s)')
    parser.add_argument(
        '--fashion-mnist', default='data/fashion_mnist', help='where Fashion-MNIST is (default: %(default)s)')
    parser.add_argument('--train', type=int, default=3000, help='training scenes (default: %(default)s)')
    parser.add_argument(
        '--val', type=int, default=400, help='validation scenes, 0 for none (default: %(default)s)')
    parser.add_argument('--test', type=int, default=400, help='test scenes (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    parser.add_argument('--max-side', type=int, default=224, metavar='PIXELS', help='greatest side of a scene; larger '
                        'ones have more items (default: %(default)s)')
    return parser.parse_args()


def main() -> int:
    """Draw the scenes. A failure is reported as sentences, not as a traceback."""
    args = parse_args()
    try:
        prepare_fashion_scenes(args.root, args.fashion_mnist, args.train, args.test, args.seed, val=args.val,
                               max_side=args.max_side)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
