"""Timing and memory helpers; the figures themselves are never asserted."""
import sys

import pytest

from pervit_mm.analysis import benchmark


def test_interleave_takes_turns_and_compares_neighbours():
    calls, now = [], [0.]

    def subject(name, seconds):
        def run():
            calls.append(name)
            # The machine slows down by the turn: ratios must not see it.
            now[0] += seconds * (1 + len(calls) // 2)
        return run

    timings = benchmark.interleave({'a': subject('a', 1.), 'b': subject('b', 3.)}, repeats=7, warmup=2,
                                   clock=lambda: now[0])
    assert calls == ['a', 'b'] * 9
    assert timings['a'].ratio == 1 and timings['b'].low <= timings['b'].ratio <= timings['b'].high
    assert 3 <= timings['b'].ratio < 4
    assert timings['a'].median == 1 + 10 // 2  # of turns 3 to 9, which start after 4, 6, ... calls


@pytest.mark.parametrize('kwargs', [dict(repeats=6), dict(subjects={}), dict(warmup=-1)])
def test_interleave_names_mistakes(kwargs):
    with pytest.raises(ValueError, match='at least 7 repeats'):
        benchmark.interleave(**{'subjects': {'a': int}, **kwargs})


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads the peak from /proc')
def test_peak_memory_in_a_fresh_process(tmp_path):
    script = tmp_path / 'case.py'
    script.write_text('import json, sys, torch\n'
                      'from pervit_mm.analysis.benchmark import peak_memory\n'
                      'torch.ones(80 * 2**18)\n'  # a peak ahead of the case must not hide it
                      "print(json.dumps(dict(peak_mib=peak_memory(lambda: torch.ones(int(sys.argv[1]) * 2**18)))))\n")
    assert benchmark.memory_of_case([str(script), '64']) == pytest.approx(64, abs=4)
    with pytest.raises(RuntimeError, match=r'(?s)the case .* failed: .*ValueError'):
        benchmark.memory_of_case([str(script), 'many'])


def test_markdown_table():
    rows = [dict(a=1, b='x'), dict(a=2, b='y')]
    assert benchmark.markdown_table(rows) == '| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |'
    assert benchmark.markdown_table([]) == ''
