#!/usr/bin/env python
"""Count the multiply-adds and parameters of a config's model.

    python tools/analysis_tools/get_flops.py configs/pervit_tiny.py --shape 224 224

The matrix products of attention are counted. The computation of Φp is not, because inference keeps Φp between calls.
Classifiers and segmentors are counted to their logits, detectors without their heads. The metafiles have these numbers
at the default size: the size that the config tests with, or 224 if the config tests with images of several sizes.
"""
import argparse
import sys

from mmengine.config import DictAction

import pervit_mm  # noqa: F401  registers everything
from pervit_mm.apis.building import build
from pervit_mm.apis.configs import input_shape, load_config
from pervit_mm.apis.flops import count_flops, has_feature_stage_only
from pervit_mm.utils.errors import UserError


def parse_args(argv=None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--shape', type=int, nargs='+', metavar='PIXELS',
                        help='image height and width; default what the config tests with, or 224 for images of '
                        'several sizes')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='override settings of the config')
    args = parser.parse_args(argv)
    if args.shape and len(args.shape) > 2:
        parser.error(f'--shape takes one number or two, height and width, got {args.shape}')
    return args


def main(argv=None) -> None:
    """Count and print."""
    args = parse_args(argv)
    try:
        cfg = load_config(args.config, args.cfg_options)
        model = build(cfg.model, cfg.get('default_scope', 'mmengine'))
        shape = input_shape(cfg)
        if args.shape:
            shape = (shape[0], args.shape[0], args.shape[-1])
        count = count_flops(model, shape)
    except UserError as error:
        sys.exit(f'tools/analysis_tools/get_flops.py: {error}')
    print(count.table)
    what = 'up to the features' if has_feature_stage_only(model) else 'up to the logits'
    print(f'Input shape: {shape}, counted {what}\n'
          f'FLOPs (multiply-adds, with attention products): {count.flops:,} '
          f'({count.flops / 1e9:.2f} G)\n'
          f'Parameters as trained: {count.params:,}')


if __name__ == '__main__':
    main()
