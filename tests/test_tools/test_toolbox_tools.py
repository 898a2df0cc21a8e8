"""MMPretrain's tools on the configs here; docs/toolbox_tools.md has what was tried by hand."""
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config

mmpretrain = pytest.importorskip('mmpretrain')

ROOT = Path(__file__).parents[2]
EPOCH = 8


class Batches(list):
    """What vis_scheduler.py has in place of a loader."""

    dataset = SimpleNamespace(metainfo=None)


def test_vis_scheduler_draws_the_schedule_of_a_config(tmp_path):
    """It trains nothing, by a plain runner with the hooks of the config."""
    tool = runpy.run_path(str(Path(mmpretrain.__file__).parent / '.mim/tools/visualization/vis_scheduler.py'))
    cfg = Config.fromfile(str(ROOT / 'configs' / 'pervit_nano_3e_fashion-mnist.py'))
    cfg.work_dir, cfg.log_level = str(tmp_path), 'ERROR'
    rates = tool['simulate_train'](Batches(range(EPOCH)), cfg, by_epoch=True)['lr']
    warm_up, total = EPOCH // 4, 3 * EPOCH
    assert len(rates) == total
    assert rates[0] == pytest.approx(0.01 * 2e-3)
    assert rates[warm_up:] == pytest.approx(
        [1e-5 + (2e-3 - 1e-5) * (1 + math.cos(math.pi * step / (total - warm_up))) / 2
         for step in range(total - warm_up)])
