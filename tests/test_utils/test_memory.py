"""Freed memory is kept: large tensors that come and go bring no new pages."""
import subprocess
import sys

import pytest

SCRIPT = '''
import resource, sys
import torch
from pervit_mm.utils.memory import keep_freed_memory

def faults():
    for _ in range(3):  # the heap may grow twice before a block fits
        torch.ones(16, 2**20)  # 64 MiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(16, 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
before = faults()
print(keep_freed_memory(), before, faults())
'''


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='the option is one of glibc')
def test_large_tensors_bring_no_new_pages():
    """In a process of its own, because the choice is for its whole life."""
    done = subprocess.run([sys.executable, '-c', SCRIPT], capture_output=True, text=True, check=True)
    kept, before, after = done.stdout.split()
    if kept == 'False':
        pytest.skip('this C library is not glibc')
    assert int(after) * 4 < int(before)
