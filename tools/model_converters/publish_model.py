#!/usr/bin/env python
"""Publish the checkpoint of a training in checkpoints/, without the states of its optimizer, schedulers and logger.

    python tools/model_converters/publish_model.py configs/pervit_nano_fashion-mnist.py \\
        work_dirs/pervit_nano_fashion-mnist/epoch_40.pth \\
        --log work_dirs/pervit_nano_fashion-mnist/*/vis_data/scalars.json

The file is named {model}_{date}-{first 8 digits of its sha256}.pth, where {model} is the stem of the config.
SHA256SUMS has all digits. The log is copied beside the file. The outputs of the model are recorded in
tests/data/published. If EMAHook averaged the weights, the averages are published.

Then paste the printed lines into configs/metafile.yml, configs/detection/metafile.yml or
configs/segmentation/metafile.yml, and run tools/make_model_zoo.py. model-index.yml must import the metafile.

Do not use MMPretrain's publish_model.py instead. Without pervit_mm it cannot read MMEngine's files under torch 2.6 and
later. It also keeps the config with its paths, and every entry that it does not know.
"""
import argparse
import sys

import pervit_mm  # noqa: F401  registers everything, and lets torch >= 2.6 read checkpoints
from pervit_mm.checkpoints import package_root
from pervit_mm.publishing.publish import MAX_BYTES, publish
from pervit_mm.utils.errors import UserError


def main(argv=None) -> None:
    """Read the command line, publish, and print what to paste."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file of this clone; its stem is the name of the model')
    parser.add_argument('checkpoint', help="checkpoint of MMEngine's runner")
    parser.add_argument('--log', nargs='+', default=[], metavar='FILE',
                        help="the training's vis_data/scalars.json; of a resumed one all, in the order of time")
    parser.add_argument('--command', help='what trained it, for the metafile; default python tools/train.py CONFIG')
    parser.add_argument('--date', metavar='YYYYMMDD', help="for the names; default today's")
    parser.add_argument('--replace', action='store_true', help='remove what was published of this model before')
    parser.add_argument('--force-size', action='store_true',
                        help=f'publish more than {MAX_BYTES:,} bytes; no wheel will carry them')
    args = parser.parse_args(argv)
    try:
        done = publish(args.config, args.checkpoint, package_root(), args.log, args.date, args.replace,
                       None if args.force_size else MAX_BYTES, args.command)
    except UserError as error:
        sys.exit(f'tools/model_converters/publish_model.py: {error}')
    print(f'{done.path}: {done.path.stat().st_size:,} bytes, sha256 {done.sha256}'
          f'{", weights averaged by EMAHook" if done.had_ema else ""}')
    if done.removed:
        print(f'Removed: {", ".join(done.removed)}')
    if done.has_results:
        print('For the metafile, with the results that were measured:')
    else:
        why = 'no --log has a metric that metafiles name' if args.log else 'no --log was given'
        print(f'For the metafile, WITHOUT Results: {why}. Publish again with the log, or add them by hand:')
    print(done.entry, end='')


if __name__ == '__main__':
    main()
