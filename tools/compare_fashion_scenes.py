#!/usr/bin/env python
"""Train PerViT and its controls on FashionScenes for the same time each, and print one table for each task.

    python tools/compare_fashion_scenes.py                  # 21 runs of 10 minutes, two at a time
    python tools/compare_fashion_scenes.py --task detection --out detection.csv --figure detection.png
    python tools/compare_fashion_scenes.py --configs mask-rcnn_pervit-nano mask-rcnn_pervit-nano_sit-pre --seeds 0 1
    python tools/compare_fashion_scenes.py --configs pervit-nano_fpn pervit-nano_global_fpn     # global attention

You can stop it at any time and start it again with the same arguments. Finished runs are kept, and an interrupted run
goes on from its last checkpoint. A short trial measures how many iterations fit into the time. So do nothing else on
the machine meanwhile. The table has the minutes that these iterations took in the end, and the results on the test
scenes: mean and deviation over the seeds. The last columns compare a model with the first one seed by seed: the mean
difference of the first metric with its 95 % interval, and the p of a paired t-test. If the machine did other work
during a trial, correct the number of iterations in the run's plan.json before its training starts.
"""
import argparse
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import mean

from pervit_mm.benchmarks.difference_chart import draw_differences
from pervit_mm.benchmarks.equal_time import run_for, settings_for, threads_of_each
from pervit_mm.benchmarks.paired import mean_and_deviation, paired_difference
from pervit_mm.evaluation import write_csv
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
#: How many of a task's metrics the table has. The CSV has all of them.
IN_TABLE = 3


@dataclass(frozen=True)
class Task:
    """What is compared.

    Attributes:
        metrics (dict[str, float]): Name in the results, and what makes points of it. Models are compared by the first.
        configs (tuple[str, ...]): Without ``_fashion-scenes``. The others are compared with the first.
        more (tuple[str, ...]): Configs that are run only where ``--configs`` names them.
    """

    metrics: dict[str, float]
    configs: tuple[str, ...]
    more: tuple[str, ...]

    def in_points(self, result: dict) -> dict:
        """A result whose metrics are in points."""
        return {**result, **{key: points * result[key] for key, points in self.metrics.items()}}


TASKS = dict(
    detection=Task({'coco/bbox_mAP': 100., 'coco/bbox_mAP_50': 100., 'coco/segm_mAP': 100., 'coco/segm_mAP_50': 100.},
                   ('mask-rcnn_pervit-nano', 'mask-rcnn_pervit-nano_sit-pre', 'mask-rcnn_pervit-nano_scratch',
                    'mask-rcnn_resnet18'), ('mask-rcnn_pervit-nano_global', )),
    segmentation=Task({'mIoU': 1., 'mAcc': 1., 'aAcc': 1.},
                      ('pervit-nano_fpn', 'pervit-nano_scratch_fpn', 'resnet18_fpn'), ('pervit-nano_global_fpn', )))


def config_of(task: str, name: str) -> str:
    """Path of a config."""
    return str(ROOT / 'configs' / task / f'{name}_fashion-scenes.py')


def table_of(task: Task, results: dict[str, dict[int, dict]]) -> list[dict[str, str]]:
    """One row for each model, from its results in points by seed."""
    main_metric, first, rows = next(iter(task.metrics)), next(iter(results)), []
    column = f'{main_metric.split("/")[-1]} to the first'
    for name, found in results.items():
        row = {'model': f'`{name}`', 'iterations, minutes': ' in '.join(
            f'{mean(result[key] for result in found.values()):,.{digits}f}'
            for key, digits in (('iterations', 0), ('measured', 1)))}
        for key in list(task.metrics)[:IN_TABLE]:
            row[key.split('/')[-1]] = mean_and_deviation({seed: result[key] for seed, result in found.items()})
        row.update({column: '', 'p': ''})
        if name != first and len(found) > 1:
            difference = paired_difference(*({seed: result[main_metric] for seed, result in results[of].items()}
                                             for of in (name, first)))
            row.update({column: str(difference), 'p': difference.p_text})
        rows.append(row)
    return rows


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--task', nargs='+', choices=TASKS, default=list(TASKS))
    parser.add_argument('--configs', nargs='+', metavar='CONFIG',
                        choices=[name for task in TASKS.values() for name in (*task.configs, *task.more)],
                        help='names without _fashion-scenes; default ' + '; '.join(
                            f'{name}: {", ".join(task.configs)}, not {", ".join(task.more)}'
                            for name, task in TASKS.items()))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--minutes', type=float, default=10., help='training time of each run')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time')
    parser.add_argument('--threads', type=int, help='of each run; default OMP_NUM_THREADS, or CPUs / jobs')
    parser.add_argument('--root', default='work_dirs/fashion_scenes', help='folder of all runs')
    parser.add_argument('--out', metavar='FILE.csv', help='one line for each run of the one --task; default none')
    parser.add_argument('--figure', metavar='FILE.png', help='the differences in the one --task; default none')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every run')
    args = parser.parse_args()
    threads = args.threads or threads_of_each(args.jobs)
    chosen = {task: [name for name in (*TASKS[task].configs, *TASKS[task].more)
                     if name in (args.configs or TASKS[task].configs)] for task in args.task}
    chosen = {task: names for task, names in chosen.items() if names}
    if len(set(args.seeds)) < len(args.seeds):
        parser.error(f'--seeds must differ, got {args.seeds}')
    if (args.out or args.figure) and len(chosen) != 1:
        parser.error(f'--out and --figure are about one task, got {" and ".join(chosen) or "none"}: give --task')
    if args.figure and (len(args.seeds) < 2 or any(len(names) < 2 for names in chosen.values())):
        parser.error('--figure needs two models and two seeds')
    if len(args.seeds) > 1 and find_spec('scipy') is None:
        parser.error('the paired test needs SciPy, which is not installed: run "pip install scipy"')
    # The first seed of all models comes first, so that an interrupted comparison already compares all of them.
    runs = [(task, seed, name) for seed in args.seeds for task, names in chosen.items() for name in names]
    try:
        for task, seed, name in runs:  # ahead of all work, which takes hours
            settings_for(config_of(task, name), args.root, seed, args.minutes, args.cfg_options, threads)
        with ThreadPoolExecutor(args.jobs) as pool:
            jobs = {(task, seed, name): pool.submit(run_for, ROOT / 'tools' / 'train.py', config_of(task, name),
                                                    args.root, seed, args.minutes, args.cfg_options, threads)
                    for task, seed, name in runs}
            try:
                for job in as_completed(jobs.values()):
                    job.result()
            except BaseException:  # running jobs may end, and no other starts
                pool.shutdown(cancel_futures=True)
                raise
        for task, names in chosen.items():
            results = {name: {seed: TASKS[task].in_points(jobs[task, seed, name].result()) for seed in args.seeds}
                       for name in names}
            metrics = list(TASKS[task].metrics)
            print(f'\n## {task}, {args.minutes:g} minutes each, {threads} threads, seeds {args.seeds}\n\n'
                  f'{markdown_table(table_of(TASKS[task], results))}')
            if args.out:
                write_csv([dict(model=name, seed=seed, iterations=found['iterations'], minutes=found['measured'],
                                **{key.split('/')[-1]: found[key] for key in metrics})
                           for name, by_seed in results.items() for seed, found in by_seed.items()], args.out)
            if args.figure:
                draw_differences({name: {seed: found[metrics[0]] for seed, found in by_seed.items()}
                                  for name, by_seed in results.items()}, names[0], args.figure,
                                 f'{metrics[0].split("/")[-1]}, difference to {names[0]} in points')
    except UserError as error:
        raise SystemExit(f'tools/compare_fashion_scenes.py: {error}') from error


if __name__ == '__main__':
    main()
