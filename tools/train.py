#!/usr/bin/env python
"""Train the model of a config, in MMPretrain, MMDetection or MMSegmentation.

The config's ``default_scope`` says which toolbox it belongs to. Examples:

    python tools/train.py configs/pervit_nano_3e_fashion-mnist.py
    python tools/train.py configs/pervit_tiny.py --resume        # go on from the last checkpoint
    bash tools/dist_train.sh configs/pervit_tiny.py 8            # eight GPUs
"""
import argparse
import sys

from mmengine.config import DictAction

import pervit_mm  # noqa: F401  registers everything, and lets torch >= 2.6 read checkpoints
from pervit_mm.apis.configs import load_config
from pervit_mm.engine import launch
from pervit_mm.engine.results import print_result
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.memory import keep_freed_memory


def parse_args(argv=None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints; default ./work_dirs/<config stem>')
    parser.add_argument(
        '--resume', nargs='?', const='auto', metavar='CHECKPOINT',
        help='go on from this checkpoint, or without a value from the latest of the work dir')
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision; without a GPU fp32 is used')
    parser.add_argument(
        '--no-validate', action='store_true', help='do not evaluate during training')
    parser.add_argument(
        '--auto-scale-lr', action='store_true',
        help="scale the learning rate from the config's batch size to the real one")
    parser.add_argument('--seed', type=int, help="random seed, in place of the config's")
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
        help='override settings of the config, e.g. train_cfg.max_epochs=5 key="[a,b]"')
    launch.add_launcher_arguments(parser)
    args = parser.parse_args(argv)
    launch.set_local_rank(args.launcher, args.local_rank)
    return args


def main(argv=None) -> None:
    """Train, and print the last metrics and the checkpoint."""
    args = parse_args(argv)
    try:
        cfg = load_config(args.config, args.cfg_options)
        notes = launch.prepare_config(
            cfg, args.config, launcher=args.launcher, work_dir=args.work_dir, resume=args.resume,
            amp=args.amp, validate=not args.no_validate, auto_scale_lr=args.auto_scale_lr,
            seed=args.seed)
        runner = launch.build_runner(cfg)
        for note in notes:
            runner.logger.warning(note)
        runner.train()
    except UserError as error:
        sys.exit(f'tools/train.py: {error}')
    print_result(runner)


if __name__ == '__main__':
    keep_freed_memory()
    main()
