"""Runs of equal time, with a stand-in for tools/train.py that writes logs like MMEngine's."""
import json

import pytest

from pervit_mm.benchmarks import equal_time
from pervit_mm.utils.errors import UserError

TOOL = '''
import json, os, sys
from pathlib import Path
args = sys.argv[1:]
work_dir = Path(args[args.index('--work-dir') + 1])
options = dict(arg.split('=') for arg in args[args.index('--cfg-options') + 1:])
calls = work_dir.parent.parent / 'calls.jsonl'
with open(calls, 'a') as file:
    file.write(json.dumps([args[0], args[args.index('--seed') + 1], '--no-validate' in args, '--resume' in args,
                           os.environ.get('OMP_NUM_THREADS'), options]) + '\\n')
if Path(work_dir.parent.parent / 'fail').exists() and work_dir.name != 'trial':
    sys.exit(3)
log = work_dir / '20260101_000000' / 'vis_data' / 'scalars.json'
log.parent.mkdir(parents=True, exist_ok=True)
times = ((1, 9.), (2, 9.), (12, 0.5), (22, 0.3))
lines = [dict(lr=0.1, loss=2., time=t, data_time=0.1, iter=i, step=i) for i, t in times]
log.write_text('\\n'.join(map(json.dumps, lines)))
(work_dir / f"iter_{options['train_cfg.max_iters']}.pth").touch()
'''
#: Stands in for tools/test.py: the metrics say how it was called.
TEST = '''
import json, os, sys
args = sys.argv[1:]
if os.path.exists(os.path.join(args[3], '..', '..', 'fail_test')):
    sys.exit(4)
assert os.path.isfile(args[1]) and args[2] == '--work-dir' and args[4] == '--out-metrics'
with open(args[5], 'w') as file:
    json.dump({'coco/bbox_mAP': 0.25, 'mIoU': 50., 'tested': [args[0], os.path.basename(args[1]), args[6:],
               os.environ.get('OMP_NUM_THREADS')]}, file)
'''


@pytest.fixture
def tool(tmp_path):
    path = tmp_path / 'train.py'
    path.write_text(TOOL)
    (tmp_path / 'test.py').write_text(TEST)
    return path


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'a_b.py'
    path.write_text('width = 1')
    return path


def calls(tmp_path):
    """The calls of the trials, then those of the run. Each call is recorded two folders above its work dir."""
    return [json.loads(line) for path in (tmp_path / 'runs' / 'calls.jsonl', tmp_path / 'calls.jsonl')
            for line in path.read_text().splitlines()]


def test_a_run_is_planned_by_a_trial_and_never_repeated(tmp_path, tool, config):
    root = tmp_path / 'runs'
    for _ in range(2):
        result = equal_time.run_for(tool, str(config), root, 1, 2., ['x.y=z'], threads=1)
        # The later half of the trial took 0.4 s for each iteration, so 300 of them fit into 2 minutes.
        # The log of the run has 26 s in 22 iterations. Three hundred of them take 300 * 26 / 22 s.
        assert result == {'config': 'a_b', 'seed': 1, 'minutes': 2., 'iterations': 300,
                          'measured': pytest.approx(300 * 26 / 22 / 60), 'coco/bbox_mAP': 0.25, 'mIoU': 50.,
                          'tested': [str(config), 'iter_300.pth', ['--cfg-options', 'x.y=z'], '1']}
    first, longer, run = calls(tmp_path)
    assert first[:5] == longer[:5] == [str(config), '1', True, True, '1']
    for trial, iterations in ((first, '24'), (longer, '150')):  # a minute of 0.4 s each
        assert trial[5]['train_cfg.max_iters'] == trial[5]['default_hooks.checkpoint.interval'] == iterations
    assert run[:5] == [str(config), '1', True, True, '1']
    # The warm-up is a tenth of the run, because that is shorter than the schedule's own 100 iterations.
    assert run[5] == {'train_cfg.max_iters': '300', 'param_scheduler.0.end': '30', 'param_scheduler.1.begin': '30',
                      'param_scheduler.1.end': '300',
                      'default_hooks.checkpoint.interval': '60', 'default_hooks.logger.interval': '50', 'x.y': 'z'}
    assert json.loads((root / 'a_b_seed1' / 'result.json').read_text())['iterations'] == 300


def test_a_failed_run_goes_on_by_its_old_plan(tmp_path, tool, config):
    root = tmp_path / 'runs'
    (tmp_path / 'fail').touch()
    with pytest.raises(UserError, match=r'training .*a_b.py stopped with exit code 3: see .*output.txt'):
        equal_time.run_for(tool, str(config), root, 0, 1.)
    (tmp_path / 'fail').unlink()
    plan = root / 'a_b_seed0' / 'plan.json'
    plan.write_text(json.dumps(dict(json.loads(plan.read_text()), iterations=77)))
    assert equal_time.run_for(tool, str(config), root, 0, 1.)['iterations'] == 77
    assert len((root / 'calls.jsonl').read_text().splitlines()) == 2  # no trial again


def test_a_failed_test_does_not_train_again(tmp_path, tool, config):
    (tmp_path / 'fail_test').touch()
    with pytest.raises(UserError, match=r'testing .*a_b.py stopped with exit code 4: see .*output.txt'):
        equal_time.run_for(tool, str(config), tmp_path / 'runs', 0, 2.)
    (tmp_path / 'fail_test').unlink()
    before = len(calls(tmp_path))
    assert equal_time.run_for(tool, str(config), tmp_path / 'runs', 0, 2.)['mIoU'] == 50
    assert len(calls(tmp_path)) == before


def test_an_interrupted_trial_is_done_again(tmp_path, tool, config):
    """The first iterations in a log are slow. By them alone, only 13 iterations would fit into the time."""
    log = tmp_path / 'runs' / 'a_b_seed0' / 'trial' / '20250101_000000' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps(dict(loss=2., time=9., step=6)))
    assert equal_time.run_for(tool, str(config), tmp_path / 'runs', 0, 2.)['iterations'] == 300
    assert not log.exists()


def test_a_run_too_slow_for_a_warm_up_gets_a_valid_schedule(tmp_path, tool, config):
    """MMEngine wants each schedule to end after its beginning."""
    equal_time.train(tool, str(config), tmp_path / 'runs' / 'a' / 'b', 0, 1)
    options = json.loads((tmp_path / 'runs' / 'calls.jsonl').read_text())[5]
    assert options['train_cfg.max_iters'] == '1' and options['default_hooks.checkpoint.interval'] == '1'
    assert int(options['param_scheduler.1.begin']) < int(options['param_scheduler.1.end'])


def test_a_folder_with_a_run_of_other_settings_is_refused(tmp_path, tool, config):
    def run(minutes=1., options=('x.y=z', ), threads=1):
        return equal_time.run_for(tool, str(config), tmp_path / 'runs', 0, minutes, options, threads)

    run()
    with pytest.raises(ValueError, match=r'a_b_seed0 has a run with minutes=1.0, not 2.0: remove it'):
        run(minutes=2.)
    with pytest.raises(ValueError, match=r"options=\['x.y=z'\], not \[\]; threads=1, not 2: remove it"):
        run(options=(), threads=2)
    config.write_text('width = 2')
    with pytest.raises(ValueError, match='a run with config='):
        run()


def test_a_trial_without_times_is_refused(tmp_path):
    with pytest.raises(ValueError, match='logged no time'):
        equal_time.iterations_for(60., tmp_path)
