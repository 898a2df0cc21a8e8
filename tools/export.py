#!/usr/bin/env python
"""Export a trained PerViT to ONNX, or to the format of torch.export, and check the file against PyTorch.

    python tools/export.py configs/pervit_tiny.py work_dirs/pervit_tiny/epoch_300.pth
    python tools/export.py DENSE_CONFIG CHECKPOINT --backbone-only --img-size 512 1024
    python tools/export.py WINDOWED_CONFIG CHECKPOINT --backbone-only --img-size any
    python tools/export.py configs/pervit_nano_fashion-mnist.py pervit_mm://FILE.pth      # a published one

The file takes batches of any size, of images of one size that are normalized already. With --img-size any it takes
images of any size; that needs a model whose Φp doesn't depend on it. The tool prints how to normalize them, and the
file says it too ('preprocessing'). The file returns logits, or with --backbone-only the outputs of the backbone as the
config has them. It is written only if its outputs differ from PyTorch's by at most 1e-4. Otherwise the exit code is 1.

--format onnx needs more packages: pip install 'pervit_mm[export]'
"""
import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction

import pervit_mm  # noqa: F401  registers everything, and lets torch >= 2.6 read checkpoints
from pervit_mm.apis import export
from pervit_mm.apis.configs import load_config, preprocessing_of
from pervit_mm.checkpoints import PREFIX
from pervit_mm.utils.errors import UserError


def parse_args(argv=None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file, or pervit_mm://FILE.pth')
    parser.add_argument('--format', choices=list(export.FORMATS), default='onnx', help='default onnx')
    parser.add_argument('--out', metavar='FILE',
                        help="file to write; default the checkpoint's name with .onnx or .pt2, in the current folder "
                        'for a published one')
    parser.add_argument('--backbone-only', action='store_true', help='without neck and head, for dense tasks')
    parser.add_argument('--img-size', nargs='+', metavar='PIXELS',
                        help="image height and width, or 'any'; default what the config tests with")
    parser.add_argument('--force', action='store_true', help='replace the file if it exists')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='override settings of the config, e.g. model.backbone.out_type=featmap')
    args = parser.parse_args(argv)
    if args.img_size == [export.ANY_SIZE]:
        args.img_size = export.ANY_SIZE
    elif args.img_size:
        if len(args.img_size) > 2 or not all(side.isdecimal() and int(side) for side in args.img_size):
            parser.error("--img-size takes one positive number or two, height and width, or 'any', got "
                         f'{" ".join(args.img_size)}')
        args.img_size = (int(args.img_size[0]), int(args.img_size[-1]))
    return args


def main(argv=None) -> None:
    """Export, check, and say what the file takes and returns."""
    args = parse_args(argv)
    source = Path(args.checkpoint)
    default = Path(source.name) if args.checkpoint.startswith(PREFIX) else source
    path = Path(args.out or default.with_suffix(export.FORMATS[args.format]))
    try:
        cfg = load_config(args.config, args.cfg_options)
        done = export.export_checkpoint(cfg, args.checkpoint, path, args.format, args.img_size, args.backbone_only,
                                        args.force)
    except UserError as error:
        sys.exit(f'tools/export.py: {error}')
    outputs = ', '.join(f'{name} {shape}' for name, shape in done.output_shapes.items())
    of = 'of any size, such as ' if args.img_size == export.ANY_SIZE else ''
    print(f'{path}: a batch of images {of}{done.image_shape} to {outputs}\n'
          f'Images are to be normalized ahead of it: {", ".join(f"{k}={v}" for k, v in preprocessing_of(cfg).items())}')
    print(f'max abs difference to PyTorch: {done.difference:.2g} (at most {export.TOLERANCE:g} is allowed)')


if __name__ == '__main__':
    main()
