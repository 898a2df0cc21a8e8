#!/usr/bin/env python
"""Train PerViT-nano on FashionScenes by Leopart, cluster its tokens, and print how well clusters cover the classes.

    python tools/overclustering_study.py                     # two seeds, one run at a time
    python tools/overclustering_study.py --system dino --seeds 0 1 2 --jobs 2 --out study.csv
    python tools/overclustering_study.py --start FILE        # one start for all seeds that is there already

You can stop it at any time and start it again with the same arguments. Finished runs and scores are kept, and an
interrupted run goes on from its last checkpoint. Leopart starts from the teacher of --system of its seed, which is
trained as by tools/pretraining_study.py: runs in the same folder are taken over, so run the two one behind the other.

Rows: the pixels of each token; random weights; the weights that Leopart starts from; Leopart; and Leopart on all
tokens instead of the foreground, the control for the foreground. Columns: mean IoU of 50 clusters on the test scenes,
each matched with the class of most of its pixels, over three runs of k-means, ± their deviation; classes, those of the
ground and ten items that got a cluster, on average; "foreground", the share of tokens in the foreground that show an
item, where all tokens have the share that is printed below the table. BatchNorm has statistics of training scenes in
every row. Nothing is chosen by these scores.
"""
import argparse
from pathlib import Path
from statistics import mean, stdev

from mmengine.config import Config

from pervit_mm.apis.configs import load_config
from pervit_mm.apis.overclustering import Tiles, foreground_precision, read_tiles, score_overclustering
from pervit_mm.benchmarks.kept_scores import fingerprint, kept_scores
from pervit_mm.benchmarks.pretrained import SYSTEMS, TEACHER, prefix_of, pretrainings
from pervit_mm.benchmarks.run_queue import Run, last_checkpoint, train_all
from pervit_mm.datasets.fashion_scenes_files import MANIFEST
from pervit_mm.evaluation import write_csv
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'selfsup'
CONFIG = CONFIGS / 'leopart_pervit-nano_1xb32-coslr-8e_fashion-scenes.py'
#: Leopart, and the control that takes all tokens for foreground: options of the run.
KINDS = {'leopart': (), 'leopart-all-tokens': ('model.mass=1.0', )}
DATA = 'data/fashion_scenes'
#: Training scenes from which BatchNorm gets its statistics.
CALIBRATION = 100


def score(name: str, weights: str, seed: int, cfg: Config, tiles: tuple[Tiles, Tiles], settings: dict,
          folder: Path) -> dict[str, list]:
    """For each run of k-means the mean IoU in percent and the number of matched classes, and what is in the foreground.

    A result that is there is kept.
    """
    def make() -> dict[str, list]:
        found = score_overclustering(cfg, weights, *tiles, clusters=settings['clusters'], seed=seed)
        foreground = [] if weights in ('pixels', 'random') else foreground_precision(cfg, weights, *tiles)
        return dict(miou=[one.miou for one in found], classes=[len(one.matches.unique()) for one in found],
                    foreground=foreground)

    start = cfg.model.backbone.init_cfg.checkpoint if weights == 'start' else weights
    made_of = dict(settings, weights=[weights, fingerprint(start)], seed=seed, model=repr(cfg.model))
    return kept_scores(folder / f'{name.replace(" ", "-")}_{seed}.json', made_of, make)


def queue(args: argparse.Namespace) -> list[Run]:
    """All trainings: those that Leopart starts from, unless a file is given, and Leopart itself."""
    runs = [] if args.start else [run for seed in args.seeds for run in pretrainings(CONFIGS, args.system, seed)]
    for kind, of_kind in KINDS.items():
        for seed in args.seeds:
            start = args.start or f'{{{args.system}_seed{seed}}}'
            options = [f'model.backbone.init_cfg.checkpoint={start}', *args.cfg_options, *of_kind]
            if not args.start:
                options.append(f'model.backbone.init_cfg.prefix={prefix_of(args.system)}')
            if args.data != DATA:
                options.append(f'train_dataloader.dataset.data_root={args.data}')
            runs.append(Run(f'{kind}_seed{seed}', str(CONFIG), seed, tuple(options)))
    return runs


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--system', choices=SYSTEMS, default=TEACHER, help='of the start; default %(default)s')
    parser.add_argument('--start', metavar='FILE', help='checkpoint with a teacher, for all seeds; default: --system '
                        'is trained')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1])
    parser.add_argument('--clusters', type=int, default=50)
    parser.add_argument('--scenes', type=int, help='the first so many test scenes; default all')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time')
    parser.add_argument('--data', default=DATA, help='folder of the scenes')
    parser.add_argument('--root', default='work_dirs/pretraining', help='folder of all runs')
    parser.add_argument('--out', metavar='FILE.csv', help='default none')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every run of Leopart')
    args = parser.parse_args()
    root, settings = Path(args.root), dict(
        clusters=args.clusters, scenes=args.scenes, data=fingerprint(Path(args.data) / MANIFEST))
    try:
        train_all(ROOT / 'tools' / 'train.py', queue(args), root, args.jobs)
        cfgs = {seed: load_config(root / f'leopart_seed{seed}' / CONFIG.name) for seed in args.seeds}
        side = cfgs[args.seeds[0]].crops.global_size
        tiles = read_tiles(args.data, 'test', side, args.scenes), read_tiles(args.data, 'train', side, CALIBRATION)
        subjects = [('pixels', args.seeds[0], 'pixels')]
        for name, weights in (('random weights', 'random'), ('start', 'start')):
            subjects += [(name, seed, weights) for seed in args.seeds]
        for kind in KINDS:
            subjects += [(kind, seed, last_checkpoint(root / f'{kind}_seed{seed}')) for seed in args.seeds]
        rows, table = [], []
        for name, seed, weights in subjects:
            found = score(name, weights, seed, cfgs[seed], tiles, settings, root / 'overclustering')
            precision, share = found['foreground'] or (None, None)
            rows += [dict(features=name, seed=seed, draw=draw, miou=miou, classes=classes, foreground=precision,
                          all_tokens=share)
                     for draw, (miou, classes) in enumerate(zip(found['miou'], found['classes']))]
            table.append({'features': name, 'seed': '' if name == 'pixels' else seed,
                          'mIoU': f'{mean(found["miou"]):.1f} ± {stdev(found["miou"]):.1f}',
                          'classes': f'{mean(found["classes"]):.1f}',
                          'foreground': '' if precision is None else f'{precision:.1f}'})
        if args.out:
            write_csv(rows, args.out)
    except UserError as error:
        raise SystemExit(f'tools/overclustering_study.py: {error}') from error
    print(f'{markdown_table(table)}\n\nOf all tokens {share:.1f} % show an item.')


if __name__ == '__main__':
    main()
