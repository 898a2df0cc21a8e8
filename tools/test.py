#!/usr/bin/env python
"""Evaluate a checkpoint of a model of MMPretrain, MMDetection or MMSegmentation.

    python tools/test.py configs/pervit_tiny.py work_dirs/pervit_tiny/epoch_300.pth
    python tools/test.py configs/pervit_tiny.py work_dirs/pervit_tiny/epoch_300.pth --tta
    python tools/test.py configs/pervit_tiny.py work_dirs/pervit_tiny/epoch_300.pth --show-dir pictures --interval 500
"""
import argparse
import sys

from mmengine.config import DictAction
from mmengine.dist import is_main_process
from mmengine.fileio import dump

import pervit_mm  # noqa: F401  registers everything, and lets torch >= 2.6 read checkpoints
from pervit_mm.apis.configs import load_config
from pervit_mm.engine import launch
from pervit_mm.engine.results import describe_metric, dump_predictions, plain
from pervit_mm.engine.show import show_predictions
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.memory import keep_freed_memory
from pervit_mm.utils.paths import shown


def parse_args(argv=None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('--work-dir', help='folder for the log; default ./work_dirs/<config stem>')
    parser.add_argument('--out', metavar='FILE.pkl', help='write all predictions to this file')
    parser.add_argument('--out-metrics', metavar='FILE.json', help='write the metrics to this file')
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions into this folder')
    parser.add_argument('--show', action='store_true', help='show each prediction in a window')
    parser.add_argument(
        '--interval', type=int, default=1, metavar='N',
        help='with the two above: draw every Nth image, of a segmentor every Nth batch; default 1')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds that a window stays; default 2')
    parser.add_argument(
        '--tta', action='store_true',
        help="augment in testing, by the config's tta_model and tta_pipeline; a classifier's default is to average the "
        'scores of each image and its mirror image')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
        help='override settings of the config, e.g. test_dataloader.batch_size=16')
    launch.add_launcher_arguments(parser)
    args = parser.parse_args(argv)
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out {args.out}: predictions are pickled, so the name must end in .pkl')
    if args.out_metrics and not args.out_metrics.endswith(('.json', '.yaml', '.yml')):
        parser.error(f'--out-metrics {args.out_metrics}: the name must end in .json or .yaml')
    given = any(getattr(args, name) != parser.get_default(name) for name in ('interval', 'wait_time'))
    if given and not (args.show or args.show_dir):
        parser.error('--interval and --wait-time are for --show-dir and --show: give one of these too')
    launch.set_local_rank(args.launcher, args.local_rank)
    return args


def main(argv=None) -> None:
    """Evaluate, and print the metrics."""
    args = parse_args(argv)
    try:
        cfg = load_config(args.config, args.cfg_options)
        notes = launch.prepare_test_config(
            cfg, args.config, args.checkpoint, launcher=args.launcher, work_dir=args.work_dir,
            tta=args.tta)
        folder = None
        if args.show_dir or args.show:
            folder = show_predictions(
                cfg, args.show_dir, window=args.show, interval=args.interval, wait_time=args.wait_time)
        runner = launch.build_runner(cfg)
        for note in notes:
            runner.logger.warning(note)
        if args.out:
            dump_predictions(runner, args.out)
        metrics = runner.test()
    except UserError as error:
        sys.exit(f'tools/test.py: {error}')
    if is_main_process():
        for key, value in metrics.items():
            print(describe_metric(key, value))
        if args.out_metrics:
            dump({key: plain(value) for key, value in metrics.items()}, args.out_metrics)
        if folder:
            print(f'pictures: {shown(folder)}')


if __name__ == '__main__':
    keep_freed_memory()
    main()
