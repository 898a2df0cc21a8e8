"""Put the real Fashion-MNIST where the configs read it: data/fashion_mnist, extracted and checked.

Run it from the top of the repository: ``python tools/prepare_fashion_mnist.py``. A second run does nothing.
"""

import argparse
import sys

from pervit_mm.datasets import prepare_fashion_mnist
from pervit_mm.utils.errors import UserError


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Fetch Fashion-MNIST, extract it and check it.')
    parser.add_argument(
        '--root', default='data/fashion_mnist', help='where the files go (default: %(default)s)')
    parser.add_argument(
        '--source', help='a folder that already has the four files, extracted or as .gz')
    parser.add_argument(
        '--install', action='store_true',
        help="let apt-get install Debian's package on the system, as root; without it nothing is installed")
    return parser.parse_args()


def main() -> int:
    """Fetch the files. A failure is reported as sentences, not as a traceback."""
    args = parse_args()
    try:
        prepare_fashion_mnist(args.root, source=args.source, install=args.install)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
