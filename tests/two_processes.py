"""A second process that trains in step with this one over gloo."""
import os
import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parent


@contextmanager
def process_group(rank, folder):
    """Be one of two processes. ``folder`` is where they meet."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2,
                                         timeout=timedelta(minutes=10))
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def second_process(file, folder):
    """Run ``run_rank(1, folder)`` of a test file in another process meanwhile. Yields a list, which gets its result."""
    file, result = Path(file), []
    code = (f'import sys; sys.path[:0] = sys.argv[2:]; import {file.stem} as t; t.torch.set_num_threads(1);'
            't.torch.save(t.run_rank(1, sys.argv[1]), sys.argv[1] + "/second.pth")')
    other = subprocess.Popen(
        [sys.executable, '-c', code, str(folder), str(file.parent), str(TESTS)], cwd=TESTS.parent,
        env={**os.environ, 'PYTHONPATH': str(TESTS.parent)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True)
    try:
        yield result
        assert other.wait(timeout=600) == 0
        result.append(torch.load(Path(folder) / 'second.pth'))
    finally:
        other.kill()
        print(other.communicate()[1])  # pytest shows it after a failure
