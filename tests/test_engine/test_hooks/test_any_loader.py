"""The hooks of every config with a loader that is a plain list, as MMPretrain's vis_scheduler.py has it."""
import importlib.util
import math
from pathlib import Path

import pytest

import pervit_mm  # noqa: F401
from pervit_mm.apis.configs import load_config

mmpretrain = pytest.importorskip('mmpretrain')
TOOL = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / 'visualization' / 'vis_scheduler.py'
CONFIG = Path(__file__).parents[3] / 'configs' / 'pervit_nano_3e_fashion-mnist.py'
BATCHES = 8


class ListLoader(list):
    """Without ``num_workers`` and without a sampler."""

    class dataset:
        metainfo = None


@pytest.mark.skipif(not TOOL.is_file(), reason='this MMPretrain came without its tools')
def test_vis_scheduler_draws_the_curve_of_a_config(tmp_path):
    """Its own run, with our custom hooks, against the schedule: two iterations of warm-up, then a cosine."""
    spec = importlib.util.spec_from_file_location('vis_scheduler', TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    cfg = load_config(str(CONFIG))
    cfg.work_dir, cfg.log_level = str(tmp_path), 'WARNING'
    assert 'PerViTRandomStateHook' in [hook['type'] for hook in cfg.custom_hooks]
    found = tool.simulate_train(ListLoader(range(BATCHES)), cfg, by_epoch=True)
    cosine = [1e-5 + (2e-3 - 1e-5) * (1 + math.cos(math.pi * i / 22)) / 2 for i in range(22)]
    assert found['lr'] == pytest.approx([2e-5, 2e-3, *cosine])
