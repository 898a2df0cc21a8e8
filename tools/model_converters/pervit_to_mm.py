#!/usr/bin/env python
"""Convert a checkpoint of the authors' PerViT code for the configs of this repository.

The file is read without running any code in it. The size is recognised from the weights, and any number of classes will
do. Examples:

    python tools/model_converters/pervit_to_mm.py official.pth pervit_tiny.pth
    python tools/model_converters/pervit_to_mm.py official.pth backbone.pth --backbone-only

A classifier of this repository is backbone and head, so --backbone-only, for detection and segmentation, and
--drop-head, for fine-tuning on other classes, write the same. The keys begin with 'backbone.' all the same: every
config takes the backbone by

    init_cfg=dict(type='Pretrained', checkpoint='backbone.pth', prefix='backbone.')

be it from this file, from the full one, or from a training.
"""
import argparse
import sys

from pervit_mm import official
from pervit_mm.checkpoint_files import check_target, write_checkpoint


def main(argv=None) -> None:
    """Read the command line, convert, and say what the file is and how to use it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', help="checkpoint of the authors' code")
    parser.add_argument('dst', help='file to write')
    parser.add_argument('--backbone-only', action='store_true', help='only the backbone, for dense tasks')
    parser.add_argument('--drop-head', action='store_true', help='leave the head out, for other classes')
    parser.add_argument('--force', action='store_true', help='replace DST if it exists')
    args = parser.parse_args(argv)
    try:
        check_target(args.dst, args.force)
        state, meta = official.convert_official(
            official.read_official(args.src), drop_head=args.drop_head, backbone_only=args.backbone_only)
        digest = write_checkpoint(dict(state_dict=state, meta=meta), args.dst, args.force)
    except (OSError, TypeError, ValueError) as error:
        sys.exit(f'tools/model_converters/pervit_to_mm.py: {error}')
    config, classes = f'configs/pervit_{meta["size"]}.py', meta['num_classes']
    head = 'no head' if meta['dropped'] else f'{classes} classes'
    print(f'{args.dst}: PerViT {meta["size"]}, {official.count_parameters(state):,} parameters, {head}, '
          f'sha256 begins {digest}')
    if meta['dropped']:
        print(f"In {config}, or in a dense config of that size: init_cfg=dict(type='Pretrained', "
              f"checkpoint='{args.dst}', prefix='backbone.') for the backbone")
    else:
        options = '' if classes == 1000 else (
            f' --cfg-options model.head.num_classes={classes} data_preprocessor.num_classes={classes}')
        print(f'With its config: python tools/test.py {config} {args.dst}{options}')


if __name__ == '__main__':
    main()
