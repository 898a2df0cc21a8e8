#!/usr/bin/env python
"""Pre-train PerViT-nano on Fashion-MNIST by each system, fine-tune it on 1 % of the labels, and print the table.

    python tools/pretraining_study.py                        # all systems, two seeds each, two runs at a time
    python tools/pretraining_study.py --systems mae milan --seeds 0 --jobs 1 --out study.csv

You can stop it at any time and start it again with the same arguments. Finished runs are kept, and an interrupted run
goes on from its last checkpoint. The seed of a run also draws its images with labels. Beside the systems stand two
controls without pre-training: the same fine-tuning from scratch, and one that sees as many images more as the longest
pre-training. MILAN learns from the teacher of the SiT of its seed, which is trained where it is missing. Columns: k-NN
at k = 20 with all labels; k-NN and linear probe on 1 % of the labels, mean of three draws; fine-tuning on 1 %; tokens
that find their place in another crop, exactly and within one token.
"""
import argparse
import json
import os
from pathlib import Path

from pervit_mm.apis.configs import load_config
from pervit_mm.apis.pretraining_scores import score_region_matching
from pervit_mm.apis.probe import probe
from pervit_mm.benchmarks.run_queue import Run, last_checkpoint, train_all
from pervit_mm.evaluation import write_csv
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
#: Epochs of pre-training of each system.
SYSTEMS = dict(simmim=5, mae=5, sit=3, milan=5, dino=2, esvit=2, ibot=2, attmask=2)
#: Systems without a teacher that follows. Of the others, the teacher is scored.
ALONE = ('simmim', 'mae', 'milan')
CONTROLS = dict(scratch=80, scratch_long=580)


def queue(systems: list[str], controls: list[str], seeds: list[int]) -> list[Run]:
    """All trainings: the controls, then each system, its fine-tuning behind it.

    Ahead of MILAN come the runs of SiT whose teachers it learns from, whether SiT itself is asked for or not.
    """
    configs, runs = ROOT / 'configs' / 'selfsup', []
    for control in controls:
        config = configs / 'benchmarks' / f'pervit-nano_scratch_1xb50-coslr-{CONTROLS[control]}e_fashion-mnist-1pct.py'
        runs += [Run(f'{control}-1pct_seed{seed}', str(config), seed, (f'train_dataloader.dataset.seed={seed}', ))
                 for seed in seeds]
    for system in systems:
        if system == 'milan':
            runs += [pretraining(configs, 'sit', seed) for seed in seeds]
        runs += [pretraining(configs, system, seed) for seed in seeds]
        config = configs / 'benchmarks' / f'pervit-nano_{system}-pre_1xb50-coslr-80e_fashion-mnist-1pct.py'
        for seed in seeds:
            start = f'model.backbone.init_cfg.checkpoint={{{system}_seed{seed}}}'
            runs.append(Run(f'{system}-1pct_seed{seed}', str(config), seed,
                            (f'train_dataloader.dataset.seed={seed}', start)))
    return list({run.name: run for run in runs}.values())


def pretraining(configs: Path, system: str, seed: int) -> Run:
    """One pre-training."""
    config = configs / f'{system}_pervit-nano_1xb128-coslr-{SYSTEMS[system]}e_fashion-mnist.py'
    target = (f'model.target_generator.checkpoint={{sit_seed{seed}}}', ) if system == 'milan' else ()
    return Run(f'{system}_seed{seed}', str(config), seed, target)


def score(work_dir: Path, prefix: str) -> dict[str, float]:
    """What the features of a pre-training are worth, in percent. A result that is there is not made again."""
    result = work_dir / 'scores.json'
    if result.is_file():
        return json.loads(result.read_text())
    cfg, checkpoint = load_config(ROOT / 'configs' / 'pervit_nano_3e_fashion-mnist.py'), last_checkpoint(work_dir)
    # Masks, corruption and small crops changed the statistics of BatchNorm.
    row, = probe(cfg, checkpoint, prefix=prefix, recalibration=8192, k=(20, ))
    scores = {'k-NN': row.knn[20], 'k-NN, 1 %': row.few_knn.mean, 'probe, 1 %': row.few_probe.mean}
    for tolerance, found in zip((0, 1), score_region_matching(cfg, checkpoint, prefix=prefix, tolerances=(0, 1))):
        scores[f'place ± {tolerance}'] = found.accuracy
    result.write_text(json.dumps(scores))
    return scores


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
    runs, root, rows = queue(args.systems, args.controls, args.seeds), Path(args.root), []
    try:
        found = train_all(ROOT / 'tools' / 'train.py', runs, root, args.jobs,
                          max(1, (os.cpu_count() or 1) // max(1, args.jobs)))
        for name in (*args.controls, *args.systems):
            for seed in args.seeds:
                prefix = 'backbone.' if name in ALONE else 'teacher.module.backbone.'
                scores = score(root / f'{name}_seed{seed}', prefix) if name in SYSTEMS else dict.fromkeys(
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
