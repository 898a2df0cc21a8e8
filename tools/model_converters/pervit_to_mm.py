#!/usr/bin/env python
"""Convert a checkpoint of the authors' PerViT code for the configs of this repository.

The file is read without running any code in it. The size is recognized from the weights. The head may have any number
of classes.

    python tools/model_converters/pervit_to_mm.py official.pth pervit_tiny.pth
    python tools/model_converters/pervit_to_mm.py official.pth backbone.pth --backbone-only

--backbone-only leaves the head out, for dense tasks and for fine-tuning on other classes. The keys begin with
'backbone.' in both cases. So a config takes the backbone of this file, of a full file or of a training with

    init_cfg=dict(type='Pretrained', checkpoint='backbone.pth', prefix='backbone.')
"""
import argparse
import sys

from pervit_mm.checkpoints import check_target, official, write_checkpoint
from pervit_mm.utils.errors import UserError


def main(argv=None) -> None:
    """Read the command line, convert, and say what the file is and how to use it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', help="checkpoint of the authors' code")
    parser.add_argument('dst', help='file to write')
    parser.add_argument('--backbone-only', action='store_true',
                        help='leave the head out, for dense tasks and for other classes')
    parser.add_argument('--force', action='store_true', help='replace DST if it exists')
    args = parser.parse_args(argv)
    try:
        check_target(args.dst, args.force)
        state, meta = official.convert_official(official.read_official(args.src), backbone_only=args.backbone_only)
        digest = write_checkpoint(dict(state_dict=state, meta=meta), args.dst, args.force)
    except UserError as error:
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
