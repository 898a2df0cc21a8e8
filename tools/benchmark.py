#!/usr/bin/env python
"""Measure speed and memory side by side, and write a table as Markdown and JSON.

    python tools/benchmark.py                              # every suite but "gpu", minutes each on two cores
    python tools/benchmark.py --suite inference --sizes tiny
    python tools/benchmark.py --suite training --repeats 11 --out work_dirs/benchmark
    python tools/benchmark.py --suite gpu --sizes tiny small medium     # on a machine with a card

The subjects take turns within one run. A ratio is the median over the turns, with its quartiles. "oracle" is the form
that the tests compute by definition: full distance grid, exp, product and row normalization, as in the authors' code.
Peak memory is the increase over an idle process. Each case is measured in a fresh process.
"""
import argparse
import importlib.util
import json
import logging
from pathlib import Path

import torch

import pervit_mm  # noqa: F401  registers everything
from pervit_mm.benchmarks import suites, timing
from pervit_mm.utils.errors import UserError
from pervit_mm.utils.markdown import markdown_table
from pervit_mm.utils.memory import keep_freed_memory

ROOT = Path(__file__).parents[1]


def load_oracle():
    """Import the form by definition from the tests of this clone."""
    path = ROOT / 'tests' / 'oracle.py'
    if not path.is_file():
        raise SystemExit('tools/benchmark.py compares with tests/oracle.py: run it in a clone of the project')
    spec = importlib.util.spec_from_file_location('oracle', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse_args(argv=None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--suite', nargs='+', choices=suites.SUITES,
                        default=[suite for suite in suites.SUITES if suite != 'gpu'],
                        help='default: all but "gpu", which measures a card in less than ten minutes')
    parser.add_argument('--sizes', nargs='+', choices=['tiny', 'small', 'medium'], default=['tiny', 'small'])
    parser.add_argument('--batch', nargs='+', type=int, help="batch sizes, in place of the suite's own")
    parser.add_argument('--pixels', nargs='+', type=int, choices=[224, 384], default=[224, 384],
                        help='image sides of the suite "inference"')
    parser.add_argument('--repeats', type=int, default=7, help='turns that count, at least 7')
    parser.add_argument('--threads', type=int, help='CPU threads; default torch\'s own')
    parser.add_argument('--out', default='work_dirs/benchmark', help='folder for benchmark.md and benchmark.json')
    parser.add_argument('--memory-case', help=argparse.SUPPRESS)  # measures one case of a suite in this process
    return parser.parse_args(argv)


def main(argv=None) -> None:
    """Run the suites and write the tables."""
    args = parse_args(argv)
    logging.disable(logging.INFO)
    torch.manual_seed(0)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory_case:
        run = suites.memory_case(args.memory_case, load_oracle())
        print(json.dumps(timing.first_call(run)))
        return
    keep_freed_memory()  # as tools/train.py does
    oracle = load_oracle()
    command = [str(Path(__file__).resolve()), *(['--threads', str(args.threads)] if args.threads else []),
               '--memory-case']
    settings = suites.Settings(tuple(args.sizes), tuple(args.batch or ()), tuple(args.pixels), args.repeats, command)
    environment, tables, out = timing.environment(), {}, Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    text = ', '.join(f'{key} {value}' for key, value in environment.items())
    for suite in args.suite:
        try:
            rows = suites.SUITES[suite](settings, oracle)
        except UserError as error:
            raise SystemExit(f'tools/benchmark.py: {error}') from error
        tables[suite] = rows
        print(f'\n## {suite}\n\n{markdown_table(rows)}', flush=True)
        # After each suite: a later one may be cut off.
        (out / 'benchmark.json').write_text(json.dumps(dict(environment=environment, tables=tables), indent=1))
        parts = [f'# Benchmark\n\n{text}\n'] + [f'## {k}\n\n{markdown_table(v)}\n' for k, v in tables.items()]
        (out / 'benchmark.md').write_text('\n'.join(parts))
    print(f'\n{text}\nwritten to {out}/benchmark.md and benchmark.json')


if __name__ == '__main__':
    main()
