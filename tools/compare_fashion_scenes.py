#!/usr/bin/env python
"""Train PerViT and its controls on FashionScenes for the same time each, and print one table for each task.

    python tools/compare_fashion_scenes.py                  # 14 runs of 10 minutes, two at a time
    python tools/compare_fashion_scenes.py --task detection --minutes 10 --jobs 1
    python tools/compare_fashion_scenes.py --configs mask-rcnn_pervit-nano mask-rcnn_pervit-nano_sit-pre

You can stop it at any time and start it again with the same arguments. Finished runs are kept, and an interrupted run
goes on from its last checkpoint. A short trial measures how many iterations fit into the time. The table has the
minutes that these iterations took in the end, and the results on the test scenes. If the machine did other work during
a trial, correct the number of iterations in the run's plan.json before its training starts.
"""
import argparse
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from pervit_mm.benchmarks.equal_time import run_for, threads_of_each
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
RUNS = dict(
    detection=dict(
        seeds=(0, 1),
        metrics=('coco/bbox_mAP', 'coco/bbox_mAP_50', 'coco/segm_mAP', 'coco/segm_mAP_50'),
        configs=('mask-rcnn_pervit-nano', 'mask-rcnn_pervit-nano_sit-pre', 'mask-rcnn_pervit-nano_scratch',
                 'mask-rcnn_pervit-nano_global', 'mask-rcnn_resnet18')),
    segmentation=dict(
        seeds=(0, ),
        metrics=('mIoU', 'mAcc', 'aAcc'),
        configs=('pervit-nano_fpn', 'pervit-nano_scratch_fpn', 'pervit-nano_global_fpn', 'resnet18_fpn')))


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--task', nargs='+', choices=RUNS, default=list(RUNS))
    parser.add_argument('--configs', nargs='+', choices=[name for runs in RUNS.values() for name in runs['configs']],
                        help='names without _fashion-scenes; default all of the tasks')
    parser.add_argument('--minutes', type=float, default=10., help='training time of each run')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time')
    parser.add_argument('--threads', type=int, help='of each run; default OMP_NUM_THREADS, or CPUs / jobs')
    parser.add_argument('--root', default='work_dirs/fashion_scenes', help='folder of all runs')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every run')
    args = parser.parse_args()
    threads = args.threads or threads_of_each(args.jobs)
    with ThreadPoolExecutor(args.jobs) as pool:
        # The first seed of all models comes first, so that an interrupted comparison already compares all of them.
        jobs = {(task, seed, name): pool.submit(
            run_for, ROOT / 'tools' / 'train.py', str(ROOT / 'configs' / task / f'{name}_fashion-scenes.py'), args.root,
            seed, args.minutes, args.cfg_options, threads)
                for seed in (0, 1) for task in args.task if seed in RUNS[task]['seeds']
                for name in RUNS[task]['configs'] if args.configs is None or name in args.configs}
        try:
            for job in as_completed(jobs.values()):
                job.result()
        except BaseException as error:  # running jobs may end, and no other starts
            pool.shutdown(cancel_futures=True)
            if isinstance(error, UserError):
                raise SystemExit(f'tools/compare_fashion_scenes.py: {error}') from error
            raise
    for task in args.task:
        rows = []  # a task of which no config was named has none
        for (of, seed, name), job in jobs.items():
            if of == task:
                result = job.result()
                rows.append({'model': name, 'seed': seed, 'iterations': result['iterations'],
                             'minutes': round(result['measured'], 1),
                             **{key.split('/')[-1]: result[key] for key in RUNS[task]['metrics']}})
        if rows:
            print(f'\n## {task}, {args.minutes:g} minutes each, {threads} threads\n\n{markdown_table(rows)}')


if __name__ == '__main__':
    main()
