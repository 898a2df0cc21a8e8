#!/usr/bin/env python
"""Train PerViT-nano on FashionScenes by Leopart, cluster its tokens, and print how well clusters cover the classes.

    python tools/overclustering_study.py                     # two seeds, one run at a time
    python tools/overclustering_study.py --system dino --seeds 0 1 2 --jobs 2 --out study.csv
    python tools/overclustering_study.py --start FILE        # one start for all seeds that is there already

You can stop it at any time and start it again with the same arguments. Finished runs and scores are kept, and an
interrupted run goes on from its last checkpoint. Leopart starts from the teacher of --system of its seed, which is
trained as by tools/pretraining_study.py: runs in the same folder are taken over, so run the two one behind the other.

Rows: the pixels of each token, random weights, the weights that Leopart starts from, and Leopart. The last one is
Leopart on all tokens, the control for the foreground. Every row has BatchNorm statistics of training scenes. Nothing is
chosen by these scores. Columns:

- mIoU of 50 clusters on the test scenes. Each cluster is matched with the class of most of its pixels. The value is the
  mean of three runs of k-means, ± their deviation.
- classes: those of the ground and ten items that got a cluster, on average.
- foreground: the share of the tokens in the foreground that show an item. The line below has that of all tokens.
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


def score(file: Path, weights: str, seed: int, cfg: Config, tiles: tuple[Tiles, Tiles],
          settings: dict) -> dict[str, list]:
    """For each run of k-means the mean IoU in percent and the number of matched classes, and what is in the foreground.

    A result that is in the file is kept.
    """
    def make() -> dict[str, list]:
        found = score_overclustering(cfg, weights, *tiles, clusters=settings['clusters'], seed=seed)
        foreground = [] if weights == 'pixels' else foreground_precision(cfg, weights, *tiles, seed=seed)
        return dict(miou=[one.miou for one in found], classes=[len(one.matches.unique()) for one in found],
                    foreground=foreground)

    start = cfg.model.backbone.init_cfg.checkpoint if weights == 'start' else weights
    made_of = dict(settings, weights=[weights, fingerprint(start)], seed=seed, model=repr(cfg.model))
    return kept_scores(file, made_of, make)


def name_of(kind: str, seed: int, args: argparse.Namespace) -> str:
    """Name of a run, which tells its start."""
    return f'{kind}-from-{fingerprint(args.start) if args.start else args.system}_seed{seed}'.replace('/', '-')


def queue(args: argparse.Namespace) -> list[Run]:
    """All trainings: those that Leopart starts from, unless a file is given, and Leopart itself."""
    runs = [] if args.start else [run for seed in args.seeds for run in pretrainings(CONFIGS, args.system, seed)]
    data = () if args.data == DATA else (f'train_dataloader.dataset.data_root={args.data}', )
    for kind, of_kind in KINDS.items():
        for seed in args.seeds:
            start = args.start or f'{{{args.system}_seed{seed}}}'
            options = (f'model.backbone.init_cfg.checkpoint={start}',
                       f'model.backbone.init_cfg.prefix={prefix_of(args.system)}', *data, *args.cfg_options, *of_kind)
            runs.append(Run(name_of(kind, seed, args), str(CONFIG), seed, options))
    return runs


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--system', choices=SYSTEMS, default=TEACHER,
                        help='that Leopart starts from; default %(default)s')
    parser.add_argument('--start', metavar='FILE', help='its checkpoint, for all seeds; default: --system is trained')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1])
    parser.add_argument('--clusters', type=int, default=50)
    parser.add_argument('--scenes', type=int, help='the first so many test scenes; default all')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time')
    parser.add_argument('--data', default=DATA, help='folder of the scenes')
    parser.add_argument('--root', default='work_dirs/pretraining', help='folder of all runs')
    parser.add_argument('--out', metavar='FILE.csv', help='default none')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every run of Leopart')
    args = parser.parse_args()
    root, settings = Path(args.root), dict(
        clusters=args.clusters, scenes=args.scenes, data=fingerprint(Path(args.data) / MANIFEST))
    try:
        train_all(ROOT / 'tools' / 'train.py', queue(args), root, args.jobs)
        names = {(kind, seed): name_of(kind, seed, args) for kind in KINDS for seed in args.seeds}
        cfgs = {key: load_config(root / name / CONFIG.name) for key, name in names.items()}  # with the options
        side = cfgs['leopart', args.seeds[0]].crops.global_size
        tiles = read_tiles(args.data, 'test', side, args.scenes), read_tiles(args.data, 'train', side, CALIBRATION)
        subjects = [('pixels', 'leopart', args.seeds[0], 'pixels')]
        for name, weights in (('random weights', 'random'), ('start', 'start')):
            subjects += [(name, 'leopart', seed, weights) for seed in args.seeds]
        subjects += [(kind, kind, seed, last_checkpoint(root / name)) for (kind, seed), name in names.items()]
        rows, table = [], []
        for name, kind, seed, weights in subjects:
            file = root / 'overclustering' / f'{name_of(name, seed, args).replace(" ", "-")}.json'
            found = score(file, weights, seed, cfgs[kind, seed], tiles, settings)
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
