"""Differences between two rows of a table that have the same seeds, and how sure they are."""
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean, stdev

from ..utils.errors import UserError


@dataclass(frozen=True)
class PairedDifference:
    """How much a row differs from the reference.

    Attributes:
        mean (float): Of the differences, one for each seed; above 0 if the row is better than the reference.
        low, high (float): The 95 % interval of the mean, from Student's t.
        p (float): Of a paired t-test, two-sided: how often chance alone gives a difference as large.
        seeds (int): How many.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int

    @property
    def p_text(self) -> str:
        """``p`` as the tables show it."""
        return '< 0.001' if self.p < 0.001 else f'{self.p:.3f}'

    def __str__(self) -> str:
        return f'{self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f})'


def paired_difference(row: Mapping[int, float], reference: Mapping[int, float]) -> PairedDifference:
    """Compare two rows seed by seed.

    A seed draws the order of the images, few images out of many, and the initial weights. The order and the images are
    the same in all rows. The weights are the same only in rows with the same layers, because one generator draws them
    one behind the other. So pairing takes out a part of the chance, which may be small.

    Args:
        row (Mapping[int, float]): Value by seed.
        reference (Mapping[int, float]): Likewise.

    Returns:
        PairedDifference: Over the seeds that both have. Where all differences are equal, chance cannot be told from
        them: the interval is infinite and p is 1.

    Raises:
        UserError: If they share fewer than two seeds, or SciPy is not installed.
    """
    try:
        from scipy.stats import ttest_rel
    except ImportError as error:
        raise UserError('The paired test needs SciPy, which is not installed: run "pip install scipy".') from error
    seeds = sorted(row.keys() & reference.keys())
    if len(seeds) < 2:
        raise UserError(f'two rows must share at least two seeds, got {sorted(row)} and {sorted(reference)}: one '
                        'difference has no interval')
    differences = [row[seed] - reference[seed] for seed in seeds]
    if max(differences) - min(differences) < 1e-6 * max(1, *map(abs, row.values())):  # rounding of float32
        return PairedDifference(mean(differences), -math.inf, math.inf, 1., len(seeds))
    test = ttest_rel([row[seed] for seed in seeds], [reference[seed] for seed in seeds])
    low, high = test.confidence_interval(0.95)
    return PairedDifference(mean(differences), float(low), float(high), float(test.pvalue), len(seeds))


def mean_and_deviation(row: Mapping[int, float]) -> str:
    """``88.7 ± 0.2`` over the seeds of a row, with the sample's deviation; the value alone for one seed."""
    values = list(row.values())
    return f'{mean(values):.2f}' + (f' ± {stdev(values):.2f}' if len(values) > 1 else '')
