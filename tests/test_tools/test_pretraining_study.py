"""The queue of the pre-training study."""
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    yield importlib.import_module('pretraining_study')
    sys.modules.pop('pretraining_study', None)


@pytest.mark.parametrize('systems', [['milan'], ['milan', 'ibot'], ['mae', 'ibot', 'milan']])
def test_milan_follows_the_ibot_of_its_seed(study, systems):
    """Each run once, each ahead of those that start from it, and each config is there."""
    runs = study.queue(systems, list(study.CONTROLS), [0, 3])
    names = [run.name for run in runs]
    assert len(set(names)) == len(names) and all(Path(run.config).is_file() for run in runs)
    assert {f'{system}{part}_seed{seed}' for system in systems for part in ('', '-1pct') for seed in (0, 3)} <= {*names}
    assert ('ibot-1pct_seed0' in names) == ('ibot' in systems)
    needs = {run.name: run.needs(names) for run in runs}
    assert needs['milan_seed3'] == ['ibot_seed3'] and needs['milan-1pct_seed3'] == ['milan_seed3']
    assert all(names.index(needed) < names.index(name) for name, found in needs.items() for needed in found)
