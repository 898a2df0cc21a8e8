#!/usr/bin/env python
"""Train PerViT-nano on FashionScenes by Leopart, cluster its tokens, and print how well clusters cover the classes.

    python tools/overclustering_study.py                     # two seeds, one run at a time
    python tools/overclustering_study.py --seeds 0 1 2 --jobs 2 --out study.csv
    python tools/overclustering_study.py --start work_dirs/pretraining/dino_seed0/epoch_2.pth --root work_dirs/from_dino

You can stop it at any time and start it again with the same arguments. Finished runs and scores are kept, and an
interrupted run goes on from its last checkpoint. Beside Leopart stand the pixels of each token, random weights, and the
weights that Leopart starts from. The table has the mean IoU of 50 clusters on the test scenes, each matched with the
class of most of its pixels, over three runs of k-means; ± is their deviation. Classes: those of the ground and ten
items that got a cluster, on average. BatchNorm has statistics of training scenes in every row. Nothing is chosen by
these scores.
"""
import argparse
from pathlib import Path
from statistics import mean, stdev

from mmengine.config import Config

from pervit_mm.apis.configs import load_config
from pervit_mm.apis.overclustering import Tiles, read_tiles, score_overclustering
from pervit_mm.benchmarks.kept_scores import fingerprint, kept_scores
from pervit_mm.benchmarks.run_queue import Run, last_checkpoint, train_all
from pervit_mm.datasets.fashion_scenes_files import MANIFEST
from pervit_mm.evaluation import write_csv
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'selfsup' / 'leopart_pervit-nano_1xb32-coslr-8e_fashion-scenes.py'
#: Training scenes from which BatchNorm gets its statistics.
CALIBRATION = 100


def score(name: str, weights: str, seed: int, cfg: Config, tiles: tuple[Tiles, Tiles], settings: dict,
          root: Path) -> dict[str, list]:
    """Mean IoU in percent and number of matched classes, for each run of k-means. A result that is there is kept."""
    def make() -> dict[str, list]:
        found = score_overclustering(cfg, weights, *tiles, clusters=settings['clusters'], seed=seed)
        return dict(miou=[one.miou for one in found], classes=[len(one.matches.unique()) for one in found])

    start = cfg.model.backbone.init_cfg.checkpoint if weights == 'start' else weights
    made_of = dict(settings, weights=[weights, fingerprint(start)], seed=seed, model=repr(cfg.model))
    return kept_scores(root / 'scores' / f'{name}.json', made_of, make)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--start', help='checkpoint with a teacher; default the published SiT, as the config names it')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1])
    parser.add_argument('--clusters', type=int, default=50)
    parser.add_argument('--scenes', type=int, help='the first so many test scenes; default all')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time')
    parser.add_argument('--data', default='data/fashion_scenes', help='folder of the scenes')
    parser.add_argument('--root', default='work_dirs/overclustering', help='folder of all runs')
    parser.add_argument('--out', metavar='FILE.csv', help='default none')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every run')
    args = parser.parse_args()
    options = [f'train_dataloader.dataset.data_root={args.data}', *args.cfg_options]
    if args.start:
        options.append(f'model.backbone.init_cfg.checkpoint={args.start}')
    runs = [Run(f'leopart_seed{seed}', str(CONFIG), seed, tuple(options)) for seed in args.seeds]
    root, settings = Path(args.root), dict(
        clusters=args.clusters, scenes=args.scenes, data=fingerprint(Path(args.data) / MANIFEST))
    try:
        train_all(ROOT / 'tools' / 'train.py', runs, root, args.jobs)
        cfg = load_config(root / runs[0].name / CONFIG.name)  # with the options
        side = cfg.crops.global_size
        tiles = read_tiles(args.data, 'test', side, args.scenes), read_tiles(args.data, 'train', side, CALIBRATION)
        subjects = [('pixels', None, 'pixels'), *(('random weights', seed, 'random') for seed in args.seeds),
                    ('start', None, 'start'),
                    *(('Leopart', run.seed, last_checkpoint(root / run.name)) for run in runs)]
        rows, table = [], []
        for name, seed, weights in subjects:
            found = score(f'{name}_{seed}', weights, seed or 0, cfg, tiles, settings, root)
            rows += [dict(features=name, seed=seed, draw=draw, miou=miou, classes=classes)
                     for draw, (miou, classes) in enumerate(zip(found['miou'], found['classes']))]
            table.append({'features': name, 'seed': '' if seed is None else seed,
                          'mIoU': f'{mean(found["miou"]):.1f} ± {stdev(found["miou"]):.1f}',
                          'classes': f'{mean(found["classes"]):.1f}'})
        if args.out:
            write_csv(rows, args.out)
    except UserError as error:
        raise SystemExit(f'tools/overclustering_study.py: {error}') from error
    print(markdown_table(table))


if __name__ == '__main__':
    main()
