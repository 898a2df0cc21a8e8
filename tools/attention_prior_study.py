#!/usr/bin/env python
"""Train PerViT-nano on Fashion-MNIST with and without a prior on a head, and print what the head finds.

    python tools/attention_prior_study.py                          # two seeds each, two runs at a time
    python tools/attention_prior_study.py --seeds 0 --jobs 1 --out priors.csv

The prior says where items are on average. It draws head 0 of the last block. You can stop the command at any time and
start it again with the same arguments: finished runs are kept, and an interrupted run goes on from its last checkpoint.
Columns: top-1 after the last epoch; average precision, in percent, with which the attention that tokens receive from
each head ranks the tokens of the item, on 2,000 test images; that of the prior itself, which is the same for all
images; and chance. Only a head above both the prior and the same head of its seed without one has learned more than
the prior gave. A head that equals the prior has learned the prior.
"""
import argparse
from pathlib import Path

from pervit_mm.apis.attention_priors import fashion_foreground, score_heads
from pervit_mm.apis.configs import load_config
from pervit_mm.benchmarks.run_queue import Run, last_checkpoint, train_all
from pervit_mm.evaluation import write_csv
from pervit_mm.selfsup.prior_files import write_prior
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
DATA = 'data/fashion_mnist'
CONFIGS = {
    'plain': ROOT / 'configs' / 'pervit_nano_3e_fashion-mnist.py',
    'prior': ROOT / 'configs' / 'selfsup' / 'attention_prior' / 'attention-prior_pervit-nano_3e_fashion-mnist.py',
}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1])
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time')
    parser.add_argument('--images', type=int, default=2000, help='test images to score attention on')
    parser.add_argument('--data', default=DATA, help='folder of Fashion-MNIST')
    parser.add_argument('--root', default='work_dirs/attention_prior', help='folder of all runs')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for all runs, as those of '
                        'tools/train.py')
    parser.add_argument('--out', metavar='FILE.csv', help='default none')
    args = parser.parse_args()
    root, rows = Path(args.root), []
    try:
        root.mkdir(parents=True, exist_ok=True)
        prior = fashion_foreground(args.data)
        write_prior(prior, root / 'foreground.npz')
        hooks = [hook.type for hook in load_config(CONFIGS['prior']).custom_hooks]
        file = f'custom_hooks.{hooks.index("AttentionPriorHook")}.priors.0.prior={root / "foreground.npz"}'
        folders = [] if args.data == DATA else [
            f'{part}_dataloader.dataset.data_root={args.data}' for part in ('train', 'val', 'test')]
        options = dict(plain=(), prior=(file, ))
        runs = {(name, seed): Run(f'{name}_seed{seed}', str(config), seed,
                                  (*folders, *args.cfg_options, *options[name]))
                for seed in args.seeds for name, config in CONFIGS.items()}
        found = train_all(ROOT / 'tools' / 'train.py', list(runs.values()), root, args.jobs)
        cfg = load_config(root / f'plain_seed{args.seeds[0]}' / CONFIGS['plain'].name)  # with the options
        for (name, seed), run in runs.items():
            scores = score_heads(cfg, last_checkpoint(root / run.name), prior=prior, images=args.images)
            rows.append({'training': name, 'seed': seed, 'top-1': found[run.name]['accuracy/top1'],
                         **{f'head {number}': value for number, value in enumerate(scores.heads)},
                         'prior': scores.prior, 'chance': scores.chance})
        if args.out:
            write_csv(rows, args.out)
    except UserError as error:
        raise SystemExit(f'tools/attention_prior_study.py: {error}') from error
    print(markdown_table([{key: f'{value:.1f}' if isinstance(value, float) else value for key, value in row.items()}
                          for row in rows]))


if __name__ == '__main__':
    main()
