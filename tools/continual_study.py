#!/usr/bin/env python
"""Let PerViT-nano learn Fashion-MNIST two classes at a time, by several methods, and print what it forgets.

    python tools/continual_study.py                                  # seven methods, two seeds, two runs at a time
    python tools/continual_study.py --methods finetune lwf functional --seeds 0 --jobs 1 --out continual.csv

Each task is a run that starts from the last checkpoint of the task before. All methods of a seed share the first task.
You can stop the command at any time and start it again with the same arguments: finished runs are kept, and an
interrupted run goes on from its last checkpoint.

Columns: average accuracy over the five tasks at the end (Lopez-Paz and Ranzato 2017), and forgetting, the best earlier
accuracy on a task minus that at the end, mean over the first four tasks (Chaudhry et al. 2018). "aware" is told which
task an image is of and chooses between two classes, "agnostic" chooses among all classes seen so far. The first is what
we judge by, because no task trains the classes of two tasks against each other. Behind the first task BatchNorm keeps
its statistics, for all methods. The CSV has the accuracy on each task behind each task.
"""
import argparse
from pathlib import Path

from pervit_mm.apis.configs import load_config
from pervit_mm.benchmarks.run_queue import Run, train_all
from pervit_mm.evaluation import write_csv
from pervit_mm.selfsup import average_accuracy, forgetting
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
METHODS = ('finetune', 'lwf', 'asymmetric', 'position', 'lwf-position', 'symmetric', 'functional')


def config_of(method: str) -> Path:
    """The config of a method."""
    name = f'continual-{method}_pervit-nano_1xb128-coslr-2e_fashion-mnist-5x2.py'
    return ROOT / 'configs' / 'selfsup' / 'continual' / name


def chain(method: str, seed: int, tasks: list[list[int]], shared: tuple[str, ...] = ()) -> list[Run]:
    """The runs of a method, one for each task.

    Args:
        method (str): The method.
        seed (int): Random seed of all of them.
        tasks (list[list[int]]): Classes of each task.
        shared (tuple[str, ...]): Options of all runs. Defaults to ().

    Returns:
        list[Run]: The first one is the same for all methods of a seed.
    """
    runs = [Run(f'task0_seed{seed}', str(config_of('finetune')), seed, shared)]
    for task in range(1, len(tasks)):
        before = f'{{{runs[-1].name}}}'
        # Statistics of new classes would change what the old network says of old ones, and no method can keep them.
        options = [f'load_from={before}', f'model.task={task}', 'model.backbone.norm_eval=True',
                   f'val_evaluator.seen={task + 1}',
                   f'test_evaluator.seen={task + 1}',
                   f'train_dataloader.dataset.classes=[{",".join(map(str, tasks[task]))}]']
        if method != 'finetune':
            options.append(f'model.old={before}')
        runs.append(Run(f'{method}_task{task}_seed{seed}', str(config_of(method)), seed, (*shared, *options)))
    return runs


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS), metavar='METHOD',
                        help=f'one or more of {", ".join(METHODS)}; default all')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1])
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time')
    parser.add_argument('--root', default='work_dirs/continual', help='folder of all runs')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for all runs, as those of '
                        'tools/train.py')
    parser.add_argument('--out', metavar='FILE.csv', help='default none')
    args = parser.parse_args()
    tasks = load_config(config_of('finetune')).tasks
    chains = {(method, seed): chain(method, seed, tasks, tuple(args.cfg_options))
              for seed in args.seeds for method in args.methods}
    runs = {run.name: run for task in zip(*chains.values()) for run in task}
    rows, lines = [], []
    try:
        found = train_all(ROOT / 'tools' / 'train.py', list(runs.values()), args.root, args.jobs)
        for (method, seed), of_tasks in chains.items():
            line = {'method': method, 'seed': seed}
            for kind in ('aware', 'agnostic'):
                table = [[found[run.name][f'tasks/{kind}_{task}'] for task in range(behind + 1)]
                         for behind, run in enumerate(of_tasks)]
                line[f'{kind}: accuracy'] = f'{average_accuracy(table):.1f}'
                line[f'{kind}: forgetting'] = f'{forgetting(table):.1f}'
                rows += [dict(method=method, seed=seed, kind=kind, behind=behind, task=task, accuracy=value)
                         for behind, row in enumerate(table) for task, value in enumerate(row)]
            lines.append(line)
        if args.out:
            write_csv(rows, args.out)
    except UserError as error:
        raise SystemExit(f'tools/continual_study.py: {error}') from error
    print(markdown_table(lines))


if __name__ == '__main__':
    main()
