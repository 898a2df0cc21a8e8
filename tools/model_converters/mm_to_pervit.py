#!/usr/bin/env python
"""Convert a checkpoint of this repository's classifiers for the authors' PerViT code.

The input is a checkpoint with its head, from a training of configs/pervit_{tiny,small,medium}.py or from
pervit_to_mm.py. The output is a dict whose 'model' is the state dict in the authors' layout. Example:

    python tools/model_converters/mm_to_pervit.py work_dirs/pervit_tiny/epoch_300.pth official.pth
"""
import argparse
import sys

from pervit_mm.checkpoints import check_target, official, read_classifier, write_checkpoint
from pervit_mm.utils.errors import UserError


def main(argv=None) -> None:
    """Read the command line, convert, and say what the file is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', help='checkpoint of an ImageClassifier of this repository, or pervit_mm://FILE.pth')
    parser.add_argument('dst', help='file to write')
    parser.add_argument('--force', action='store_true', help='replace DST if it exists')
    args = parser.parse_args(argv)
    try:
        check_target(args.dst, args.force)
        state, meta = official.revert_to_official(read_classifier(args.src))
        digest = write_checkpoint(dict(model=state), args.dst, args.force)
    except UserError as error:
        sys.exit(f'tools/model_converters/mm_to_pervit.py: {error}')
    print(f'{args.dst}: PerViT {meta["size"]} in the authors\' layout, {official.count_parameters(state):,} '
          f'parameters, {meta["num_classes"]} classes, sha256 begins {digest}')


if __name__ == '__main__':
    main()
