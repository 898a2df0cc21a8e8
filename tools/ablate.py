#!/usr/bin/env python
"""Train the ablations of PerViT-nano on Fashion-MNIST with several seeds, and print how each differs from the full one.

    python tools/ablate.py                                       # every row, three seeds, two runs at a time
    python tools/ablate.py --rows full no-position --seeds 0 1 2 3 4 --out ablation.csv
    python tools/ablate.py --rows full no-cpe vit --reference no-cpe                # compared with another row
    python tools/ablate.py --setting images-600                  # few images; five rows
    python tools/ablate.py --setting images-6000                 # and a row whose position network learns faster
    python tools/ablate.py --setting clutter                     # after tools/prepare_fashion_clutter.py
    python tools/ablate.py --read docs/data/ablation_all.csv docs/data/ablation_clutter.csv  # print, train nothing

You can stop it at any time and start it again with the same arguments. Finished runs are kept, and an interrupted run
goes on from its last checkpoint. The first seed of all rows comes first. A row is a config in configs/ablation/, a
setting changes the training of all rows alike. A seed draws the weights, the order of the images, and which images the
few are. Columns: top-1 on the test images after the last epoch, mean and deviation over the seeds; the mean of the
paired differences to a reference, with its 95 % interval; the p of a paired t-test; and, in every setting but the
first, how far Φp of each block moved, see `PerViTPositionShiftHook`. Many rows are compared, so one p of 0.05 among
them says little. A second table has what Φp is worth beside the convolution and without it, and the difference of the
two. If --read names files of several settings, the last table and the figure have what Φp is worth in each.
"""
import argparse
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pervit_mm.benchmarks.ablations import (
    Ablation,
    differences_table,
    effects_of_position,
    effects_table,
    read_ablations,
    settings_table,
    write_ablations,
)
from pervit_mm.benchmarks.difference_chart import draw_differences, draw_effects
from pervit_mm.benchmarks.raw_values import check_read
from pervit_mm.benchmarks.run_queue import Run, train_all
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'ablation'
#: What tools/prepare_fashion_clutter.py writes last.
CLUTTER = Path('data/fashion_clutter/fashion_clutter.json')
#: Rows of the table: config, and what it leaves out or changes.
ROWS = {
    'full': 'PerViT-nano',
    'no-position': 'without Φp',
    'no-cpe': 'without the conditional encoding (3 × 3 depthwise convolution)',
    'no-position_no-cpe': 'without both',
    'no-content': 'without Φc',
    'patchify': 'patchify stem',
    'euclidean': 'Φp of the Euclidean distance alone; starts flat',
    'relative-bias': 'learned relative bias in place of Φp; starts flat',
    'kernel-1': '1 × 1 kernels in the position network',
    'no-norm': 'no norms in the position network, and random weights at its start',
    'init-local': 'every block starts local',
    'init-global': 'every block starts global',
    'init-trunc-normal': 'Φp starts from a truncated normal',
    'symmetry-noise': 'noise on equal hidden channels',
    'fast-position': 'ten times the rate for the position network, and no weight decay on it',
    'vit': "MMPretrain's VisionTransformer",
}
#: The rows of most settings but the first: with and without Φp, where a convolution tells places too, and where not.
FEW = ('full', 'no-position', 'no-cpe', 'no-position_no-cpe', 'vit')
#: Rows without Φp.
WITHOUT = ('no-position', 'no-position_no-cpe', 'vit')


@dataclass(frozen=True)
class Setting:
    """What all rows have in common.

    Attributes:
        text (str): Says it.
        folder (str): Where the configs are, below configs/ablation; their names end with it too. Defaults to '', that
            folder itself.
        shots (int, optional): Training images of each class, which the seed draws. Defaults to None, all.
        epochs (int, optional): In place of those of the configs. Defaults to None.
        rows (tuple[str, ...]): Defaults to :data:`FEW`.
        shift (bool): Whether the runs log how far Φp moves, by ``PerViTPositionShiftHook``. Defaults to True.
    """

    text: str
    folder: str = ''
    shots: int | None = None
    epochs: int | None = None
    rows: tuple[str, ...] = FEW
    shift: bool = True

    def config(self, row: str) -> Path:
        """The config of a row."""
        return CONFIGS / self.folder / (f'{row}_{self.folder}.py' if self.folder else f'{row}.py')

    def options(self, row: str, seed: int) -> tuple[str, ...]:
        """What is changed in the config of a row, as ``KEY=VALUE``."""
        hook = ('default_hooks.position_shift.type=PerViTPositionShiftHook', )
        hook = hook if self.shift and row not in WITHOUT else ()
        if self.shots is None:
            return hook
        warm_up = round(self.epochs / 12, 2)  # the share that it has of 3 epochs
        return (f'train_dataloader.dataset.shots={self.shots}', f'train_dataloader.dataset.seed={seed}',
                f'train_cfg.max_epochs={self.epochs}', f'train_cfg.val_interval={self.epochs}',
                f'param_scheduler.0.end={warm_up}', f'param_scheduler.1.begin={warm_up}',
                f'param_scheduler.1.end={self.epochs}', *hook)


SETTINGS = {
    'all': Setting('Fashion-MNIST, 3 epochs', rows=tuple(ROWS), shift=False),
    'images-6000': Setting('6,000 images of Fashion-MNIST, drawn by the seed, 20 epochs', 'few', 600, 20,
                           rows=(*FEW, 'fast-position')),
    'images-6000-long': Setting('6,000 images of Fashion-MNIST, drawn by the seed, 40 epochs', 'few', 600, 40,
                                rows=('full', 'no-position')),
    'images-600': Setting('600 images of Fashion-MNIST, drawn by the seed, 100 epochs', 'few', 60, 100),
    'tokens-14': Setting('14 × 14 tokens, 6,000 images of Fashion-MNIST, drawn by the seed, 10 epochs', 'tokens-14',
                         600, 10),
    'clutter': Setting('FashionClutter, the item in the middle of others, 48,000 images, 3 epochs', 'clutter'),
}


def shifts(metrics: dict[str, float]) -> list[float]:
    """How far Φp of each block has moved at the end of a run, or nothing if it was not logged."""
    names = [key for key in metrics if key.startswith('position_shift/')]
    return [metrics[f'position_shift/block{i}'] for i in range(len(names))]


def train(setting: Setting, prefix: str, rows: tuple[str, ...], args: argparse.Namespace) -> Ablation:
    """Run what is missing."""
    runs = {(row, seed): Run(f'{prefix}{row}_seed{seed}', str(setting.config(row)), seed, setting.options(row, seed))
            for seed in args.seeds for row in rows}
    found = train_all(ROOT / 'tools' / 'train.py', list(runs.values()), args.root, args.jobs)
    results = {row: {seed: found[runs[row, seed].name] for seed in args.seeds} for row in rows}
    moved = {row: {seed: shifts(metrics) for seed, metrics in of_row.items() if shifts(metrics)}
             for row, of_row in results.items()}
    return Ablation({row: {seed: metrics['accuracy/top1'] for seed, metrics in of_row.items()}
                     for row, of_row in results.items()}, {row: of_row for row, of_row in moved.items() if of_row})


def show(ablations: dict[str, Ablation], reference: str, figure: str | None) -> None:
    """Print the tables and draw the figure."""
    for name, ablation in ablations.items():
        seeds = sorted({seed for values in ablation.top1.values() for seed in values})
        table = differences_table(ablation, ROWS, reference)
        print(f'{SETTINGS[name].text}, seeds {seeds}\n\n{markdown_table(table)}\n')
        if effects := effects_table(ablation):
            print(f'What Φp is worth:\n\n{markdown_table(effects)}\n')
    if len(ablations) > 1:
        texts = {name: setting.text for name, setting in SETTINGS.items()}
        print(f'What Φp is worth in each setting:\n\n{markdown_table(settings_table(ablations, texts))}')
    if figure and len(ablations) > 1:
        draw_effects({name: effects_of_position(ablation) for name, ablation in ablations.items()}, figure,
                     'what Φp is worth, in points of top-1')
    elif figure:
        ablation, = ablations.values()
        draw_differences(ablation.top1, reference, figure, f'top-1, difference to {reference} in points')


def check_found(ablations: dict[str, Ablation], args: argparse.Namespace) -> None:
    """Whether what --read names can be shown."""
    for name, ablation in ablations.items():
        if unknown := {name} - SETTINGS.keys() or ablation.top1.keys() - ROWS.keys():
            raise UserError(f'--read: {", ".join(sorted(unknown))} is no setting or row of this command: name files '
                            'that its --out wrote')
        if args.figure and len(ablations) == 1 and (args.reference not in ablation.top1 or len(ablation.top1) < 2):
            raise UserError(f'--figure needs the row {args.reference} and another one in the files of --read, which '
                            f'have {", ".join(ablation.top1)}')


def check_training(parser: argparse.ArgumentParser, args: argparse.Namespace, setting: Setting,
                   rows: tuple[str, ...]) -> None:
    """Whether the runs and what is asked of them can be made."""
    if unknown := {*rows, args.reference} - set(setting.rows):
        parser.error(f'--setting {args.setting} has the rows {", ".join(setting.rows)}, not {", ".join(unknown)}')
    if len(set(args.seeds)) < len(args.seeds):
        parser.error(f'--seeds must differ, got {args.seeds}')
    if args.figure and (args.reference not in rows or len(rows) < 2 or len(args.seeds) < 2):
        parser.error(f'--figure needs the row {args.reference}, another one, and two seeds')
    if len(args.seeds) > 1 and find_spec('scipy') is None:
        parser.error('the paired test needs SciPy, which is not installed: run "pip install scipy"')
    if setting.folder == 'clutter' and not CLUTTER.is_file():
        parser.error(f'--setting clutter needs the images of FashionClutter, and {CLUTTER} is not there: run "python '
                     'tools/prepare_fashion_clutter.py"')


def main() -> None:
    """Run what is missing, or read what is there, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--setting', choices=SETTINGS, default='all', help='; '.join(
        f'{name}: {setting.text}' for name, setting in SETTINGS.items()) + '. Default all')
    of_settings = '; '.join(f'{name}: {", ".join(setting.rows)}' for name, setting in SETTINGS.items())
    parser.add_argument('--rows', nargs='+', choices=ROWS, metavar='ROW',
                        help=f'default all of the setting. {of_settings}')
    parser.add_argument('--reference', choices=ROWS, metavar='ROW', default='full',
                        help='the row that the others are compared with; default full')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time')
    parser.add_argument('--root', default='work_dirs/ablation', help='folder of all runs')
    parser.add_argument('--read', nargs='+', metavar='FILE.csv', help='files that --out wrote: print their tables and '
                        'train nothing. Runs of one setting may be in several files')
    parser.add_argument('--out', metavar='FILE.csv', help='one line for each run; default none')
    parser.add_argument('--figure', metavar='FILE.png', help='a picture of the differences; default none')
    args = parser.parse_args()
    check_read(parser, args, ('setting', 'rows', 'seeds', 'jobs', 'root'))
    setting, rows = SETTINGS[args.setting], args.rows or SETTINGS[args.setting].rows
    if not args.read:
        check_training(parser, args, setting, rows)
    try:
        if args.read:
            ablations = read_ablations(args.read)
            check_found(ablations, args)
        else:
            prefix = '' if args.setting == 'all' else f'{args.setting}_'
            ablations = {args.setting: train(setting, prefix, rows, args)}
        if args.out:
            write_ablations(ablations, args.out)
        show(ablations, args.reference, args.figure)
    except UserError as error:
        raise SystemExit(f'tools/ablate.py: {error}') from error


if __name__ == '__main__':
    main()
