#!/usr/bin/env python
"""Pre-train PerViT-nano on Fashion-MNIST by each system, fine-tune it on 1 % of the labels, and print the table.

    python tools/pretraining_study.py                        # all systems, two seeds each, two runs at a time
    python tools/pretraining_study.py --systems mae milan --seeds 0 --jobs 1 --out study.csv

You can stop it at any time and start it again with the same arguments. Finished runs are kept, and an interrupted run
goes on from its last checkpoint. The seed of a run also draws its images with labels. Beside the systems stand three
controls without pre-training: the same fine-tuning from scratch; one that sees as many images more as the longest
single pre-training; and one for MILAN, which learns from the teacher of the SiT of its seed. So SiT comes with MILAN.
Columns: k-NN at k = 20 with all labels; k-NN and linear probe on 1 % of the labels, mean of three draws; fine-tuning
on 1 %; tokens that find their place in another crop, exactly and within one token.
"""
import argparse
from pathlib import Path

from pervit_mm.apis.configs import load_config
from pervit_mm.apis.pretraining_scores import score_region_matching
from pervit_mm.apis.probe import probe
from pervit_mm.benchmarks.kept_scores import fingerprint, kept_scores
from pervit_mm.benchmarks.pretrained import SYSTEMS, prefix_of, pretrainings
from pervit_mm.benchmarks.run_queue import Run, last_checkpoint, train_all
from pervit_mm.evaluation import write_csv
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'selfsup'
#: Epochs of each control.
CONTROLS = dict(scratch=80, scratch_long=580, scratch_longest=880)
#: The classifier whose data set the features are scored on.
LABELS = ROOT / 'configs' / 'pervit_nano_3e_fashion-mnist.py'


def queue(systems: list[str], controls: list[str], seeds: list[int]) -> list[Run]:
    """All trainings: the controls, then each system, its fine-tuning behind it."""
    runs = []
    for control in controls:
        config = CONFIGS / 'benchmarks' / f'pervit-nano_scratch_1xb50-coslr-{CONTROLS[control]}e_fashion-mnist-1pct.py'
        runs += [Run(f'{control}-1pct_seed{seed}', str(config), seed, (f'train_dataloader.dataset.seed={seed}', ))
                 for seed in seeds]
    for system in systems:
        runs += [run for seed in seeds for run in pretrainings(CONFIGS, system, seed)]
        config = CONFIGS / 'benchmarks' / f'pervit-nano_{system}-pre_1xb50-coslr-80e_fashion-mnist-1pct.py'
        for seed in seeds:
            start = f'model.backbone.init_cfg.checkpoint={{{system}_seed{seed}}}'
            runs.append(Run(f'{system}-1pct_seed{seed}', str(config), seed,
                            (f'train_dataloader.dataset.seed={seed}', start)))
    return list({run.name: run for run in runs}.values())


def score(work_dir: Path, prefix: str) -> dict[str, float]:
    """What the features of a pre-training are worth, in percent. A result that is there is not made again."""
    cfg, checkpoint = load_config(LABELS), last_checkpoint(work_dir)
    # Masks, corruption and small crops changed the statistics of BatchNorm.
    settings, tolerances = dict(prefix=prefix, recalibration=8192, k=(20, )), (0, 1)

    def make() -> dict[str, float]:
        row, = probe(cfg, checkpoint, **settings)
        scores = {'k-NN': row.knn[20], 'k-NN, 1 %': row.few_knn.mean, 'probe, 1 %': row.few_probe.mean}
        for tolerance, found in zip(tolerances, score_region_matching(
                cfg, checkpoint, prefix=prefix, tolerances=tolerances)):
            scores[f'place ± {tolerance}'] = found.accuracy
        return scores

    made_of = dict(settings, tolerances=tolerances, checkpoint=fingerprint(checkpoint), config=cfg.dump())
    return kept_scores(work_dir / 'scores.json', made_of, make)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--systems', nargs='*', choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument('--controls', nargs='*', choices=CONTROLS, default=list(CONTROLS))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1])
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time')
    parser.add_argument('--root', default='work_dirs/pretraining', help='folder of all runs')
    parser.add_argument('--out', metavar='FILE.csv', help='default none')
    args = parser.parse_args()
    if 'milan' in args.systems and 'sit' not in args.systems:
        args.systems.insert(args.systems.index('milan'), 'sit')
    runs, root, rows = queue(args.systems, args.controls, args.seeds), Path(args.root), []
    try:
        found = train_all(ROOT / 'tools' / 'train.py', runs, root, args.jobs)
        for name in (*args.controls, *args.systems):
            for seed in args.seeds:
                scores = score(root / f'{name}_seed{seed}', prefix_of(name)) if name in SYSTEMS else dict.fromkeys(
                    ('k-NN', 'k-NN, 1 %', 'probe, 1 %', 'place ± 0', 'place ± 1'))
                rows.append({'system': name, 'seed': seed, **scores,
                             'fine-tuned, 1 %': found[f'{name}-1pct_seed{seed}']['accuracy/top1']})
        if args.out:
            write_csv(rows, args.out)
    except UserError as error:
        raise SystemExit(f'tools/pretraining_study.py: {error}') from error
    print(markdown_table([{key: f'{value:.1f}' if isinstance(value, float) else '' if value is None else value
                           for key, value in row.items()} for row in rows]))


if __name__ == '__main__':
    main()
