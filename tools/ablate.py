#!/usr/bin/env python
"""Train the ablations of PerViT-nano on Fashion-MNIST with several seeds, and print how each differs from the full one.

    python tools/ablate.py                                       # every row, three seeds, two runs at a time
    python tools/ablate.py --rows full no-position --seeds 0 1 2 3 4 --out ablation.csv
    python tools/ablate.py --setting images-600                  # few images; see --help for the others

You can stop it at any time and start it again with the same arguments. Finished runs are kept, and an interrupted run
goes on from its last checkpoint. The first seed of all rows comes first. A row is a config in configs/ablation/, a
setting changes the training of all rows alike. Columns: top-1 on the 10,000 test images after the last epoch, mean and
deviation over the seeds; the mean of the paired differences to the row `full` with its 95 % interval; and the p of a
paired t-test. Many rows are compared, so one p of 0.05 among them says little.
"""
import argparse
import os
from pathlib import Path

from pervit_mm.benchmarks.paired import mean_and_deviation, paired_difference
from pervit_mm.benchmarks.run_queue import Run, train_all
from pervit_mm.evaluation import write_csv
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'ablation'
#: Rows of the table: config, and what it leaves out or changes.
ROWS = {
    'full': 'PerViT-nano',
    'no-position': 'without Φp',
    'no-cpe': 'without the conditional encoding (3 × 3 depthwise convolution)',
    'no-position_no-cpe': 'without both',
    'no-content': 'without Φc',
    'patchify': 'patchify stem',
    'euclidean': 'Φp of the Euclidean distance alone',
    'relative-bias': 'learned relative bias in place of Φp',
    'kernel-1': '1 × 1 kernels in the position network',
    'no-norm': 'no norms in the position network',
    'init-local': 'every block starts local',
    'init-global': 'every block starts global',
    'init-trunc-normal': 'Φp starts from a truncated normal',
    'symmetry-noise': 'noise on equal hidden channels',
    'vit': "MMPretrain's VisionTransformer",
}
#: What a setting is, and its images and epochs if they are not those of the configs. Fewer images are seen more often.
SETTINGS = {
    'all': ('all 60,000 images, 3 epochs', ()),
    'images-6000': ('the first 6,000 images, 20 epochs', (6000, 20)),
    'images-600': ('the first 600 images, 100 epochs', (600, 100)),
}


def options_of(setting: str) -> tuple[str, ...]:
    """What a setting changes in a config, as ``KEY=VALUE``."""
    if not SETTINGS[setting][1]:
        return ()
    images, epochs = SETTINGS[setting][1]
    warm_up = round(epochs / 12, 2)  # the share that it has of 3 epochs
    return (f'train_dataloader.dataset.indices={images}', f'train_cfg.max_epochs={epochs}',
            f'train_cfg.val_interval={epochs}', f'param_scheduler.0.end={warm_up}',
            f'param_scheduler.1.begin={warm_up}', f'param_scheduler.1.end={epochs}')


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', nargs='+', choices=ROWS, default=list(ROWS), metavar='ROW',
                        help=f'one or more of {", ".join(ROWS)}; default all')
    parser.add_argument('--setting', choices=SETTINGS, default='all', help='; '.join(
        f'{name}: {what}' for name, (what, _) in SETTINGS.items()) + '. Default all')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time')
    parser.add_argument('--root', default='work_dirs/ablation', help='folder of all runs')
    parser.add_argument('--out', metavar='FILE.csv', help='one line for each run; default none')
    args = parser.parse_args()
    prefix = '' if args.setting == 'all' else f'{args.setting}_'
    runs = {(row, seed): Run(f'{prefix}{row}_seed{seed}', str(CONFIGS / f'{row}.py'), seed, options_of(args.setting))
            for seed in args.seeds for row in args.rows}
    try:
        found = train_all(ROOT / 'tools' / 'train.py', list(runs.values()), args.root, args.jobs,
                          max(1, (os.cpu_count() or 1) // max(1, args.jobs)))
        top1 = {row: {seed: found[runs[row, seed].name]['accuracy/top1'] for seed in args.seeds} for row in args.rows}
        table = []
        for row, values in top1.items():
            line = {'row': f'`{row}`', 'what it is': ROWS[row], 'top-1': mean_and_deviation(values), 'to `full`': '',
                    'p': ''}
            if row != 'full' and 'full' in top1 and len(args.seeds) > 1:
                difference = paired_difference(values, top1['full'])
                line.update({'to `full`': str(difference), 'p': f'{difference.p:.3f}'})
            table.append(line)
        if args.out:
            write_csv([dict(setting=args.setting, row=row, seed=seed, top1=value) for row, values in top1.items()
                       for seed, value in values.items()], args.out)
    except UserError as error:
        raise SystemExit(f'tools/ablate.py: {error}') from error
    print(f'{SETTINGS[args.setting][0]}, seeds {args.seeds}\n\n{markdown_table(table)}')


if __name__ == '__main__':
    main()
