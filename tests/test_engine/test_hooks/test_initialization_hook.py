"""The hook that sets where Φp starts, in real runners."""
import re

import pytest
from classifier_run import Recorder, log_of, runner, sizes


def test_init_hook_sets_values_in_time_and_logs_them(tmp_path):
    run = runner(tmp_path, [dict(type='PeripheralInitHook', size=(-1, 3), strength=(2, 1))])
    recorder = Recorder(run)
    run.train()
    assert recorder.values[0] == pytest.approx([-1, 1, 3])
    table = log_of(run).split('Φp at the start')[1]
    rows = re.findall(r'^\s+(\d)\s+(-?[\d.]+)\s+([\d.]+)\s+([\d.]+)$', table, re.M)
    assert [(r[0], float(r[1]), float(r[2])) for r in rows] == [('0', -1, 2), ('1', 1, 1.5), ('2', 3, 1)]
    reach = [float(r[3]) for r in rows]
    assert reach == sorted(reach) and 0 < reach[0]


def test_init_hook_does_nothing_after_load_resume_or_pretrained(tmp_path):
    first = runner(tmp_path / 'a', [dict(type='PeripheralInitHook', size=(-2, 2))], epochs=1)
    first.train()
    trained = sizes(first.model)
    path = str(tmp_path / 'a' / 'epoch_1.pth')
    hook = [dict(type='PeripheralInitHook', size=(-1, 3))]
    init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    for name, kwargs in dict(
            load=dict(load_from=path), resume=dict(load_from=path, resume=True),
            pretrained=dict(backbone=dict(init_cfg=init_cfg))).items():
        run = runner(tmp_path / name, hook, **kwargs)
        recorder = Recorder(run)
        run.train()
        assert recorder.values[0] == trained, name
        assert 'Φp at the start' not in log_of(run), name
        assert 'Φp keeps their values' in log_of(run), name


def test_init_hook_acts_on_the_first_start_of_a_run_that_resumes(tmp_path):
    run = runner(tmp_path, [dict(type='PeripheralInitHook', size=(-1, 3))], epochs=1, resume=True)
    recorder = Recorder(run)
    run.train()
    assert recorder.values[0] == pytest.approx([-1, 1, 3])


def test_init_hook_keeps_options_that_it_is_not_given(tmp_path):
    init_cfg = dict(type='PeripheralInit', strength=(2, 1), symmetry_noise=0.1)
    run = runner(tmp_path, [dict(type='PeripheralInitHook', size=(-1, 3))], dict(init_cfg=init_cfg), epochs=1)
    recorder = Recorder(run)
    run.train()
    assert recorder.values[0] == pytest.approx([-1, 1, 3])
    assert run.model.backbone.init_cfg == [dict(init_cfg, size=(-1, 3))]
