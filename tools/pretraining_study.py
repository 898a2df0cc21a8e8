#!/usr/bin/env python
"""Pre-train PerViT-nano on Fashion-MNIST by each system, fine-tune it on 1 % of the labels, and print the table.

    python tools/pretraining_study.py                        # all systems, two seeds each, two runs at a time
    python tools/pretraining_study.py --systems simmim sit --seeds 0 --jobs 1

You can stop it at any time and start it again with the same arguments. Finished runs are kept, and an interrupted run
goes on from its last checkpoint. The seed of a run also draws its images with labels. Beside the systems stand two
controls without pre-training: the same fine-tuning from scratch, and one that sees as many images more as the longest
pre-training. "k-NN" is the accuracy at k = 20 with all labels after pre-training.
"""
import argparse
import os
from pathlib import Path

from pervit_mm.benchmarks.run_queue import Run, train_all
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
#: Epochs of pre-training of each system.
SYSTEMS = dict(simmim=5, sit=3, dino=2, esvit=2, ibot=2, attmask=2)
CONTROLS = dict(scratch=80, scratch_long=580)


def queue(systems: list[str], controls: list[str], seeds: list[int]) -> list[Run]:
    """All trainings, each fine-tuning behind its pre-training."""
    configs, runs = ROOT / 'configs' / 'selfsup', []
    for system in systems:
        config = configs / f'{system}_pervit-nano_1xb128-coslr-{SYSTEMS[system]}e_fashion-mnist.py'
        runs += [Run(f'{system}_seed{seed}', str(config), seed) for seed in seeds]
        config = configs / 'benchmarks' / f'pervit-nano_{system}-pre_1xb50-coslr-80e_fashion-mnist-1pct.py'
        for seed in seeds:
            start = f'model.backbone.init_cfg.checkpoint={{{system}_seed{seed}}}'
            runs.append(Run(f'{system}-1pct_seed{seed}', str(config), seed,
                            (f'train_dataloader.dataset.seed={seed}', start)))
    for control in controls:
        config = configs / 'benchmarks' / f'pervit-nano_scratch_1xb50-coslr-{CONTROLS[control]}e_fashion-mnist-1pct.py'
        runs += [Run(f'{control}-1pct_seed{seed}', str(config), seed, (f'train_dataloader.dataset.seed={seed}', ))
                 for seed in seeds]
    return runs


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--systems', nargs='*', choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument('--controls', nargs='*', choices=CONTROLS, default=list(CONTROLS))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1])
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time')
    parser.add_argument('--root', default='work_dirs/pretraining', help='folder of all runs')
    args = parser.parse_args()
    runs = queue(args.systems, args.controls, args.seeds)
    try:
        found = train_all(ROOT / 'tools' / 'train.py', runs, args.root, args.jobs,
                          max(1, (os.cpu_count() or 1) // args.jobs))
    except UserError as error:
        raise SystemExit(f'tools/pretraining_study.py: {error}') from error
    rows = []
    for name in (*args.systems, *args.controls):
        for seed in args.seeds:
            before = found.get(f'{name}_seed{seed}', {})
            rows.append({'system': name, 'seed': seed, 'k-NN': before.get('knn/top1_k20', ''),
                         'fine-tuned on 1 %': found[f'{name}-1pct_seed{seed}']['accuracy/top1']})
    print(markdown_table(rows))


if __name__ == '__main__':
    main()
