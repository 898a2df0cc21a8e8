#!/usr/bin/env python
"""Which findings agree between seeds: the reports of several runs as one table, mean ± deviation by block.

    python tools/analysis_tools/across_seeds.py seed0/report.json seed1/report.json seed2/report.json
"""
import argparse
import sys

from pervit_mm.apis.report.seeds import seeds_table
from pervit_mm.utils.errors import UserError


def main(argv=None) -> None:
    """Read the reports and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('reports', nargs='+', metavar='REPORT.json', help='what report.py wrote for each seed')
    try:
        print(seeds_table(parser.parse_args(argv).reports))
    except UserError as error:
        sys.exit(f'tools/analysis_tools/across_seeds.py: {error}')


if __name__ == '__main__':
    main()
