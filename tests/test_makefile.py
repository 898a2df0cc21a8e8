"""``make test`` on a machine with a GPU and without one, with a stand-in for Python that runs nothing."""
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Writes down what it is called for. The variable CUDA is the exit code of the question whether there is a GPU. FIRST
# and SECOND are those of the two passes of pytest.
STAND_IN = '''#!/bin/sh
case "$*" in
  -c*) exit "$CUDA" ;;
  *"-m cuda") echo "cuda: $CUDA_VISIBLE_DEVICES" >> calls; exit "$SECOND" ;;
  *) echo "all: $CUDA_VISIBLE_DEVICES" >> calls; exit "$FIRST" ;;
esac
'''


@pytest.mark.skipif(shutil.which('make') is None, reason='needs make')
@pytest.mark.parametrize('cuda, first, second, calls, passes', [
    (1, 0, 0, ['all: '], True),
    (1, 1, 0, ['all: '], False),
    (0, 0, 0, ['all: ', 'cuda: 0'], True),
    (0, 0, 5, ['all: ', 'cuda: 0'], True),  # TEST_ARGS may leave no test for CUDA
    (0, 0, 1, ['all: ', 'cuda: 0'], False),
    (0, 1, 0, ['all: '], False),
])
def test_tests_for_cuda_have_a_pass_of_their_own(tmp_path, cuda, first, second, calls, passes):
    python = tmp_path / 'python'
    python.write_text(STAND_IN)
    python.chmod(0o755)
    done = subprocess.run(
        ['make', '-f', str(ROOT / 'Makefile'), '-o', 'scenes', '-o', 'lint', 'test', f'PY={python}', 'TEST_ARGS=-q'],
        cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, 'CUDA_VISIBLE_DEVICES': '0', 'CUDA': str(cuda), 'FIRST': str(first), 'SECOND': str(second)})
    assert (tmp_path / 'calls').read_text().splitlines() == calls, done.stdout
    assert (done.returncode == 0) is passes, done.stdout
