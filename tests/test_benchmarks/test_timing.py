"""Timing and memory helpers. Real measured times are never asserted."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pervit_mm.benchmarks import timing


def test_interleave_takes_turns_and_compares_neighbors():
    calls, now = [], [0.]

    def subject(name, seconds):
        def run():
            calls.append(name)
            # The machine gets slower with each turn. The ratios must not show it.
            now[0] += seconds * (1 + len(calls) // 2)
        return run

    timings = timing.interleave({'a': subject('a', 1.), 'b': subject('b', 3.)}, repeats=7, warmup=2,
                                clock=lambda: now[0])
    assert calls == ['a', 'b'] * 9
    assert timings['a'].ratio == 1 and timings['b'].low <= timings['b'].ratio <= timings['b'].high
    assert 3 <= timings['b'].ratio < 4
    assert timings['a'].median == 1 + 10 // 2  # of turns 3 to 9, which start after 4, 6, ... calls


@pytest.mark.parametrize('kwargs', [dict(repeats=6), dict(subjects={}), dict(warmup=-1)])
def test_interleave_names_mistakes(kwargs):
    with pytest.raises(ValueError, match='at least 7 repeats'):
        timing.interleave(**{'subjects': {'a': int}, **kwargs})


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads the peak from /proc')
def test_peak_memory_is_measured_in_a_fresh_process(tmp_path):
    script = tmp_path / 'case.py'
    script.write_text('import json, sys, torch\n'
                      'from pervit_mm.benchmarks.timing import first_call\n'
                      'torch.ones(80 * 2**18)\n'  # a peak ahead of the case must not hide it
                      'made = []\n'
                      'def case():\n'
                      '    made.append(torch.ones(16 * 2**18))\n'
                      '    return lambda: made.append(torch.ones(int(sys.argv[1]) * 2**18))\n'
                      'print(json.dumps(first_call(case)))\n')
    case = timing.run_case([str(script), '64'])
    assert case['peak_mib'] == pytest.approx(64 + 16, abs=4) and 0 < case['seconds'] < 60
    with pytest.raises(RuntimeError, match=r'(?s)the case .* failed: .*ValueError'):
        timing.run_case([str(script), 'many'])


def test_the_tool_writes_tables(tmp_path):
    tool = Path(__file__).parents[2] / 'tools' / 'benchmark.py'
    command = [sys.executable, str(tool), '--suite', 'attention', '--threads', '1', '--out', str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    result = json.loads((tmp_path / 'benchmark.json').read_text())
    rows = result['tables']['attention']
    assert [row['attention'] for row in rows] == [
        'no mask', 'mask without gradient', 'trainable mask, ours', "trainable mask, torch's"]
    assert float(rows[0]['ratio']) == 1 and all(float(row['ms']) > 0 for row in rows)
    text = (tmp_path / 'benchmark.md').read_text()
    assert torch.__version__ in text and '1 threads' in text and '| no mask |' in text


def test_figures_of_a_card_name_it_and_its_versions(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Some Card')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, 'version', lambda: 91900)
    found = timing.environment()
    assert found['device'] == 'Some Card, compute capability 9.0' and found['torch'] == torch.__version__
    assert found['cuda'] == str(torch.version.cuda) and found['cudnn'] == '91900'
    assert {'triton', 'python'} <= set(found)
