#!/usr/bin/env python
"""What the features of a checkpoint are worth beside raw pixels and random weights: k-NN and linear probes.

    python tools/analysis_tools/probe.py CONFIG CHECKPOINT --pixels --random
    python tools/analysis_tools/probe.py CONFIG work_dirs/simmim/epoch_5.pth --recalibrate 8192 --images 2000
    python tools/analysis_tools/probe.py CONFIG dino.pth --prefix teacher.module.backbone. --out probe.csv
    python tools/analysis_tools/probe.py CONFIG CHECKPOINT data/custom

CONFIG is that of a classifier, because labels are needed. Its training set, with the pipeline of its test set, is the
bank that votes, and its test set is classified. CHECKPOINT may be a classifier's or that of a training without labels.
It is a file, or pervit_mm:// and the name of a published file. The table has top-1 accuracies in percent. Votes are
weighted with a temperature of 0.07. ± is the deviation over draws of the labeled images. On few labels 20 neighbors
vote, or all labeled images if they are fewer. --out writes every single accuracy as CSV.

With DATA, a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, the table says what the checkpoint's features are worth
on images of your own: CONFIG is that of the checkpoint, and its test pipeline and normalization prepare the images. All
labels are used then, and --shots adds the rest.
"""
import argparse
import sys

import pervit_mm  # noqa: F401  registers everything
from pervit_mm.apis.configs import load_config
from pervit_mm.apis.labeled_sets import with_folder
from pervit_mm.apis.probe import RECALIBRATION, probe
from pervit_mm.checkpoints import check_target
from pervit_mm.evaluation import baseline_records, baseline_table, write_csv
from pervit_mm.evaluation.neighbours import NUM_NEIGHBORS
from pervit_mm.utils.errors import UserError


def parse_args(argv=None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a classifier')
    parser.add_argument('checkpoint', nargs='?', help='file, or pervit_mm:// and a published file; default none')
    parser.add_argument('data', nargs='?', help="image folder in place of the config's data; default none")
    parser.add_argument('--pixels', action='store_true', help='measure pixels as well, as they are and centered')
    parser.add_argument('--random', action='store_true', help='measure random weights as well; the first of --seeds '
                        'draws them')
    parser.add_argument('--prefix', default='backbone.', help="what the backbone's keys in the checkpoint begin with; "
                        'default %(default)s')
    parser.add_argument('--recalibrate', type=int, default=0, metavar='N', help='images of the bank from which '
                        "the checkpoint's BatchNorm gets new statistics; default none, and "
                        f'{RECALIBRATION} for --random')
    parser.add_argument('--images', type=int, metavar='N', help='images of the test set, evenly; default all')
    parser.add_argument('--bank', type=int, metavar='N', help='images of the training set, evenly; default all')
    parser.add_argument('--k', type=int, nargs='+', help='numbers of neighbors with the whole bank; default '
                        f'{" ".join(map(str, NUM_NEIGHBORS))}, with DATA those of them that the bank has')
    parser.add_argument('--shots', type=int, metavar='N', help='labeled images of each class where labels are few; '
                        'default 60, with DATA none')
    parser.add_argument('--seeds', type=int, nargs='+', default=(0, 1, 2), help='one for each draw; default 0 1 2')
    parser.add_argument('--full-probe', action='store_true', help='a linear probe with all labels as well, as '
                        'always with DATA; slow for many images')
    parser.add_argument('--out', metavar='FILE.csv', help='default none')
    parser.add_argument('--device', help='such as cpu or cuda:0; default a GPU if there is one')
    return parser.parse_intermixed_args(argv)  # options may stand ahead of the checkpoint


def main(argv=None) -> None:
    """Measure, and print the table."""
    args, rows = parse_args(argv), []
    if args.data is None:
        args.k, args.shots = args.k or NUM_NEIGHBORS, 60 if args.shots is None else args.shots
    else:
        args.full_probe = True
    try:
        if args.out:
            check_target(args.out, force=True)
        cfg = load_config(args.config) if args.data is None else with_folder(load_config(args.config), args.data)
        for row in probe(cfg, args.checkpoint, pixels=args.pixels, random=args.random,
                         prefix=args.prefix, recalibration=args.recalibrate, images=args.images, bank=args.bank,
                         k=args.k, shots=args.shots, seeds=args.seeds, full_probe=args.full_probe, device=args.device):
            print(f'measured: {row.features}', file=sys.stderr)
            rows.append(row)
        if args.out:
            write_csv(baseline_records(rows), args.out)
    except UserError as error:
        sys.exit(f'tools/analysis_tools/probe.py: {error}')
    print(baseline_table(rows))


if __name__ == '__main__':
    main()
