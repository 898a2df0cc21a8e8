#!/usr/bin/env python
"""Pre-train SFC's fine-grained network, and follow items through sequences by its features and others. Print the table.

    python tools/correspondence_study.py                              # two seeds, beside and together with SiT
    python tools/correspondence_study.py --semantic dino --jobs 1 --out study.csv
    python tools/correspondence_study.py --weights pervit_mm://FILE   # a semantic network that is there already

It needs Fashion-MNIST and FashionScenes. You can stop it at any time and start it again with the same arguments.
Finished runs and scores are kept, and an interrupted run goes on from its last checkpoint. The semantic network is
trained as by tools/pretraining_study.py: its runs are taken over if they are in the same folder. MILAN comes with iBOT.

The sequences are of Fashion-MNIST's test items. In each, two to four items move, grow or shrink and hide one another.
The mask of the first frame is carried through the others by SFC's protocol. Rows: the first mask copied; the gray
pixels of a token, and of the square of 3 x 3 tokens around it; random weights; the fine-grained network, the semantic
one, and both fused; and each of the two fused with random weights in place of the other. Columns: J, the region
similarity in percent, mean over the items of all sequences; then of those whose ground stands still, and of those whose
ground drifts.
"""
import argparse
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path

import numpy as np
from torch import Tensor

from pervit_mm.analysis import fuse_features
from pervit_mm.apis.configs import load_config
from pervit_mm.apis.correspondence_scores import (
    frame_features,
    open_network,
    pixel_features,
    score_sequences,
    training_frames,
)
from pervit_mm.benchmarks.kept_scores import fingerprint, kept_scores
from pervit_mm.benchmarks.pretrained import SYSTEMS, config_of, prefix_of, pretrainings
from pervit_mm.benchmarks.run_queue import Run, last_checkpoint, train_all
from pervit_mm.datasets import FashionSequences
from pervit_mm.datasets.fashion_scenes import SPLITS
from pervit_mm.evaluation import write_csv
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'selfsup'
FINE = CONFIGS / 'sfc_pervit-nano_1xb32-10e_fashion-scenes.py'
DATA, SCENES = 'data/fashion_mnist', 'data/fashion_scenes'


def queue(args: argparse.Namespace) -> list[Run]:
    """All trainings: the fine-grained network and, without ``--weights``, the semantic one."""
    # No option where the folder is the usual one, so that runs of the other study are taken over.
    scenes = () if args.scenes == SCENES else (f'train_dataloader.dataset.data_root={args.scenes}', )
    folder, options = None if args.data == DATA else args.data, tuple(args.cfg_options)
    runs = [Run(f'sfc_seed{seed}', str(FINE), seed, (*scenes, *options)) for seed in args.seeds]
    if not args.weights:
        runs += [run for seed in args.seeds
                 for run in pretrainings(CONFIGS, args.semantic, seed, options, folder)]
    return runs


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--semantic', choices=SYSTEMS, default='sit', help='system of the semantic network')
    parser.add_argument('--weights', metavar='FILE', help='its checkpoint for all seeds, of the system that --semantic '
                        'names; default: it is trained')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1])
    parser.add_argument('--sequences', type=int, default=20, help='at least 2')
    parser.add_argument('--distance-scale', choices=('fixed', 'grid'), default='fixed',
                        help='what distance means to Φp on the grid of a frame')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time')
    parser.add_argument('--data', default=DATA, help='folder of Fashion-MNIST')
    parser.add_argument('--scenes', default=SCENES, help='folder of FashionScenes')
    parser.add_argument('--root', default='work_dirs/pretraining', help='folder of all runs')
    parser.add_argument('--out', metavar='FILE.csv', help='default none')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every training')
    args = parser.parse_args()
    if args.sequences < 2:
        parser.error('--sequences must be at least 2, one of each kind of ground')
    root = Path(args.root)
    try:
        runs = queue(args)
        train_all(ROOT / 'tools' / 'train.py', runs, root, args.jobs)
        semantic = config_of(CONFIGS, args.semantic)
        if not args.weights:
            semantic = root / f'{args.semantic}_seed{args.seeds[0]}' / semantic.name  # with the options
        networks = dict(fine=(load_config(root / runs[0].name / FINE.name), prefix_of('sfc')),
                        semantic=(load_config(semantic), prefix_of(args.semantic)))
        test = FashionSequences.from_folder(args.data, 'test')
        sequences = [test.sequence(index) for index in range(args.sequences)]
        items = fingerprint(Path(args.data) / SPLITS['test'][0])

        @cache
        def batches() -> list[np.ndarray]:
            return training_frames(FashionSequences.from_folder(args.data, 'train'))

        @cache
        def features(kind: str, checkpoint: str | int) -> list[Tensor]:
            cfg, prefix = networks[kind]
            network = open_network(cfg, checkpoint, batches(), prefix, args.distance_scale)
            return [frame_features(network, sequence.frames) for sequence in sequences]

        def fused(fine: str | int, semantic: str | int) -> Iterable[Tensor]:
            return map(fuse_features, features('fine', fine), features('semantic', semantic))

        def score(name: str, seed: int | str, make: Callable[[], Iterable[Tensor | None]], *checkpoints: str) -> dict:
            made_of = dict(sequences=args.sequences, items=items, distance_scale=args.distance_scale,
                           checkpoints=[fingerprint(path) for path in checkpoints],
                           networks=[repr((cfg.model.backbone, cfg.data_preprocessor)) for cfg, _ in networks.values()])
            file = root / 'correspondence' / f'{name.replace(" ", "-").replace(",", "")}_seed{seed}.json'
            scores = kept_scores(file, made_of, lambda: score_sequences(sequences, make()))
            return {'features': name, 'seed': seed, **scores}

        rows = [score('first mask copied', '', lambda: [None] * len(sequences))]
        rows += [score(f'pixels, {size} px', '', partial(pixel_features, sequences, size)) for size in (4, 12)]
        if args.weights:
            rows.append(score(args.semantic, '', partial(features, 'semantic', args.weights), args.weights))
        for seed in args.seeds:
            fine = last_checkpoint(root / f'sfc_seed{seed}')
            semantic = args.weights or last_checkpoint(root / f'{args.semantic}_seed{seed}')
            rows += [score('random weights', seed, partial(features, 'fine', seed)),
                     score('fine', seed, partial(features, 'fine', fine), fine)]
            if not args.weights:
                rows.append(score(args.semantic, seed, partial(features, 'semantic', semantic), semantic))
            rows += [score('fine + random weights', seed, partial(fused, fine, seed), fine),
                     score(f'random weights + {args.semantic}', seed, partial(fused, seed, semantic), semantic),
                     score(f'fine + {args.semantic}', seed, partial(fused, fine, semantic), fine, semantic)]
        if args.out:
            write_csv(rows, args.out)
    except UserError as error:
        raise SystemExit(f'tools/correspondence_study.py: {error}') from error
    print(markdown_table([{key: f'{value:.1f}' if isinstance(value, float) else value for key, value in row.items()}
                          for row in rows]))


if __name__ == '__main__':
    main()
