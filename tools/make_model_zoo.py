#!/usr/bin/env python
"""Write docs/model_zoo.md from model-index.yml, its metafiles and checkpoints/SHA256SUMS.

    python tools/make_model_zoo.py            # write
    python tools/make_model_zoo.py --check    # only compare; exit code 1 if the page is out of date
"""
import argparse
import sys
from pathlib import Path

from pervit_mm.publishing.model_zoo_page import render

PAGE = Path(__file__).resolve().parents[1] / 'docs' / 'model_zoo.md'


def main(argv=None) -> None:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='only compare')
    parser.add_argument('--page', type=Path, default=PAGE, metavar='FILE', help='default docs/model_zoo.md')
    args = parser.parse_args(argv)
    if not args.page.parent.is_dir():
        sys.exit(f"tools/make_model_zoo.py: there is no folder '{args.page.parent}' for the page: run it in a clone of "
                 'the project, or give --page FILE')
    page = render()
    if not args.check:
        args.page.write_text(page)
    elif not args.page.is_file() or args.page.read_text() != page:
        sys.exit(f'{args.page} is out of date: run python tools/make_model_zoo.py')


if __name__ == '__main__':
    main()
