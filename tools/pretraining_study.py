#!/usr/bin/env python
"""Pre-train PerViT-nano on Fashion-MNIST by each system, fine-tune it on 1 % of the labels, and print the table.

    python tools/pretraining_study.py                        # all systems, two seeds each, two runs at a time
    python tools/pretraining_study.py --systems mae milan --seeds 0 --jobs 1 --out study.csv
    python tools/pretraining_study.py --read study.csv other.csv --out both.csv      # print, train nothing

You can stop it at any time and start it again with the same arguments. Finished runs are kept, and an interrupted run
goes on from its last checkpoint. The seed of a run also draws its images with labels. Beside the systems stand raw
pixels, random weights, and three controls without pre-training: the same fine-tuning from scratch; one that sees as
many images as SimMIM's pre-training and fine-tuning; and one that takes the time of MILAN and of its teacher, the iBOT
of its seed. So iBOT comes with MILAN.

Columns: k-NN at k = 20 with all labels; k-NN and linear probe on 1 % of the labels, mean of three draws; tokens that
find their place in another crop, exactly and within one token; "items", the average precision with which the attention
that tokens receive in the last block ranks those of the item (chance is 45); for SimMIM and MAE the error on hidden
pixels, and those of two predictors that learn nothing; fine-tuning on 1 %.
"""
import argparse
from pathlib import Path

from mmengine.config import Config

from pervit_mm.apis.attention_priors import score_heads
from pervit_mm.apis.configs import load_config
from pervit_mm.apis.pretraining_scores import score_hidden_pixels, score_region_matching
from pervit_mm.apis.probe import RECALIBRATION, probe
from pervit_mm.benchmarks.kept_scores import fingerprint, kept_scores
from pervit_mm.benchmarks.pretrained import PIXELS, SYSTEMS, TEACHER, config_of, prefix_of, pretrainings
from pervit_mm.benchmarks.raw_values import check_read, read_rows
from pervit_mm.benchmarks.run_queue import Run, last_checkpoint, train_all
from pervit_mm.evaluation import write_csv
from pervit_mm.evaluation.baselines import Baseline
from pervit_mm.utils.errors import UserError, told
from pervit_mm.utils.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'selfsup'
#: Epochs of each control.
CONTROLS = dict(scratch=80, scratch_long=580, scratch_longest=1300)
#: The classifier whose data set the features are scored on.
LABELS = ROOT / 'configs' / 'pervit_nano_3e_fashion-mnist.py'
#: Columns of errors on hidden pixels, in deviations of all pixels. All others are percentages.
ERRORS = ('hidden pixels', 'mean image', 'nearest patch')
COLUMNS = ('system', 'seed', 'k-NN', 'k-NN, 1 %', 'probe, 1 %', 'place ± 0', 'place ± 1', 'items', *ERRORS,
           'fine-tuned, 1 %')


def queue(systems: list[str], controls: list[str], seeds: list[int], options: tuple[str, ...] = ()) -> list[Run]:
    """All trainings: the controls, then each system, its fine-tuning behind it. The options are for all of them."""
    runs = []
    for control in controls:
        config = CONFIGS / 'benchmarks' / f'pervit-nano_scratch_1xb50-coslr-{CONTROLS[control]}e_fashion-mnist-1pct.py'
        runs += [Run(f'{control}-1pct_seed{seed}', str(config), seed,
                     (f'train_dataloader.dataset.seed={seed}', *options)) for seed in seeds]
    for system in systems:
        runs += [run for seed in seeds for run in pretrainings(CONFIGS, system, seed, options)]
        config = CONFIGS / 'benchmarks' / f'pervit-nano_{system}-pre_1xb50-coslr-80e_fashion-mnist-1pct.py'
        for seed in seeds:
            start = f'model.backbone.init_cfg.checkpoint={{{system}_seed{seed}}}'
            runs.append(Run(f'{system}-1pct_seed{seed}', str(config), seed,
                            (f'train_dataloader.dataset.seed={seed}', *options, start)))
    return list({run.name: run for run in runs}.values())


def score(work_dir: Path, system: str) -> dict[str, float]:
    """What the features of a pre-training are worth, in percent. A result that is there is not made again."""
    cfg, checkpoint, prefix = load_config(LABELS), last_checkpoint(work_dir), prefix_of(system)

    def make() -> dict[str, float]:
        # Masks, corruption and small crops changed the statistics of BatchNorm.
        row, = probe(cfg, checkpoint, prefix=prefix, recalibration=RECALIBRATION, k=(20, ))
        scores = {**columns_of(row), **score_tokens(cfg, checkpoint, prefix)}
        if system in PIXELS:
            error = score_hidden_pixels(load_config(work_dir / config_of(CONFIGS, system).name), checkpoint, cfg)
            scores.update({'hidden pixels': error.model, 'mean image': error.mean_image,
                           'nearest patch': error.nearest_patch})
        return scores

    made_of = dict(prefix=prefix, recalibration=RECALIBRATION, checkpoint=fingerprint(checkpoint), config=cfg.dump())
    return kept_scores(work_dir / 'scores.json', made_of, make)


def score_untrained(root: Path) -> list[dict]:
    """Rows of raw pixels and of random weights of seed 0, made once."""
    cfg = load_config(LABELS)

    def make() -> dict[str, list[dict]]:
        found = probe(cfg, None, pixels=True, random=True, recalibration=RECALIBRATION, k=(20, ))
        rows = [{'system': row.features, **columns_of(row)} for row in found]
        rows[-1].update(score_tokens(cfg, None, 'backbone.'))  # random weights come last
        return dict(rows=rows)

    return kept_scores(root / 'untrained.json', dict(config=cfg.dump(), recalibration=RECALIBRATION), make)['rows']


def columns_of(row: Baseline) -> dict[str, float]:
    """The columns of k-NN and of probes."""
    return {'k-NN': row.knn[20], 'k-NN, 1 %': row.few_knn.mean, 'probe, 1 %': row.few_probe.mean}


def score_tokens(cfg: Config, checkpoint: str | None, prefix: str) -> dict[str, float]:
    """The columns of places and of items; without a checkpoint those of random weights."""
    settings = dict(prefix=prefix, recalibration=RECALIBRATION)
    places = score_region_matching(cfg, checkpoint, **settings)
    return {'place ± 0': places[0].accuracy, 'place ± 1': places[1].accuracy,
            'items': score_heads(cfg, checkpoint, **settings).together}


def trained_rows(args: argparse.Namespace) -> list[dict]:
    """Run what is missing, and score it."""
    runs, root = queue(args.systems, args.controls, args.seeds, tuple(args.cfg_options)), Path(args.root)
    found = train_all(ROOT / 'tools' / 'train.py', runs, root, args.jobs)
    rows = [{'seed': '', **row} for row in score_untrained(root)]
    for name in (*args.controls, *args.systems):
        for seed in args.seeds:
            scores = score(root / f'{name}_seed{seed}', name) if name in SYSTEMS else {}
            rows.append({'system': name, 'seed': seed, **scores,
                         'fine-tuned, 1 %': found[f'{name}-1pct_seed{seed}']['accuracy/top1']})
    return [{column: row.get(column) for column in COLUMNS} for row in rows]


def kept_rows(paths: list[str]) -> list[dict]:
    """Rows of files, in the order of a whole study: untrained, controls, systems."""
    rows = {}
    for path in paths:
        for row in read_rows(path, COLUMNS, 'tools/pretraining_study.py'):
            with told(f'{path!r} has a value that is no number', ValueError):
                rows[row['system'], row['seed']] = {
                    column: value if column in COLUMNS[:2] else float(value) if value else None
                    for column, value in row.items()}
    places = {name: place for place, name in enumerate((*CONTROLS, *SYSTEMS))}
    return sorted(rows.values(), key=lambda row: (places.get(row['system'], -1), row['seed']))


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--systems', nargs='*', choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument('--controls', nargs='*', choices=CONTROLS, default=list(CONTROLS))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1])
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time')
    parser.add_argument('--root', default='work_dirs/pretraining', help='folder of all runs')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every training')
    parser.add_argument('--read', nargs='+', metavar='FILE.csv', help='files that --out wrote: print their rows as one '
                        'table and train nothing. Of a row that several have, the last file counts')
    parser.add_argument('--out', metavar='FILE.csv', help='default none')
    args = parser.parse_args()
    check_read(parser, args, ('systems', 'controls', 'seeds', 'jobs', 'root', 'cfg_options'))
    if 'milan' in args.systems and TEACHER not in args.systems:
        args.systems.insert(args.systems.index('milan'), TEACHER)
    try:
        rows = kept_rows(args.read) if args.read else trained_rows(args)
        if args.out:
            write_csv(rows, args.out)
    except UserError as error:
        raise SystemExit(f'tools/pretraining_study.py: {error}') from error
    print(markdown_table([{key: shown(key, value) for key, value in row.items()} for row in rows]))


def shown(column: str, value: float | str | None) -> float | str:
    """A value as the table has it: shares in percent, errors in deviations of pixels."""
    if not isinstance(value, float):
        return '' if value is None else value
    return f'{value:.3f}' if column in ERRORS else f'{value:.1f}'


if __name__ == '__main__':
    main()
