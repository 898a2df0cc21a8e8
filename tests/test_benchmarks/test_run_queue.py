"""Queues of trainings, with a stand-in for tools/train.py that writes logs and checkpoints like MMEngine's."""
import json
import os
from pathlib import Path

import pytest

from pervit_mm.benchmarks.run_queue import Run, train_all
from pervit_mm.utils.errors import UserError

TOOL = '''
import json, os, sys
from pathlib import Path
args = sys.argv[1:]
work_dir = Path(args[args.index('--work-dir') + 1])
with open(work_dir.parent / 'calls.jsonl', 'a') as file:
    file.write(json.dumps([work_dir.name, args[0], args[args.index('--seed') + 1], os.environ.get('OMP_NUM_THREADS'),
                           args[args.index('--cfg-options') + 1:] if '--cfg-options' in args else []]) + '\\n')
if args[0] == 'broken.py':
    sys.exit(3)
log = work_dir / '20260101_000000' / 'vis_data' / 'scalars.json'
log.parent.mkdir(parents=True, exist_ok=True)
log.write_text('\\n'.join(map(json.dumps, [
    dict(loss=2., lr=0.1, time=1., iter=1, step=1), {'knn/top1_k20': 70., 'step': 1},
    {'knn/top1_k20': 80., 'step': 2}])))
(work_dir / args[0]).write_text(Path(args[0]).read_text())
(work_dir / 'epoch_2.pth').write_text('weights')
(work_dir / 'last_checkpoint').write_text('/somewhere/else/epoch_2.pth')
'''

TEST = '''
import json, runpy, sys
from pathlib import Path
config, checkpoint, *args = sys.argv[1:]
cfg = runpy.run_path(config)
work_dir = Path(args[args.index('--work-dir') + 1])
with open(work_dir.parent / 'calls.jsonl', 'a') as file:
    file.write(json.dumps([Path(checkpoint).name, *(cfg[f'test_{part}'] for part in ('evaluator', 'dataloader', 'cfg'))]
                          ) + '\\n')
Path(args[args.index('--out-metrics') + 1]).write_text(json.dumps({'accuracy/top1': 90.}))
'''


@pytest.fixture
def tool(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'train.py'
    path.write_text(TOOL)
    for name in ('a', 'b', 'c', 'broken'):
        Path(f'{name}.py').write_text('max_epochs = 2\ntrain_cfg = dict(max_epochs=max_epochs)\n')
    return path


def calls(root):
    return [json.loads(line) for line in (root / 'calls.jsonl').read_text().splitlines()]


@pytest.mark.parametrize('jobs, environment, threads', [(1, '', '6'), (4, '', '1'), (1, '3', '3'), (2, '3', '3')])
def test_a_run_starts_from_the_last_checkpoint_of_another_and_nothing_is_repeated(
        tmp_path, tool, monkeypatch, jobs, environment, threads):
    monkeypatch.setattr(os, 'cpu_count', lambda: 6)
    monkeypatch.setenv('OMP_NUM_THREADS', environment)
    root = tmp_path / 'runs'
    runs = [Run('a', 'a.py', 3), Run('b', 'b.py', 4, ('x={a}', 'y=1'))]
    for _ in range(2):
        found = train_all(tool, runs, root, jobs)
        assert found == dict.fromkeys('ab', {'loss': 2., 'knn/top1_k20': 80.})
    assert calls(root) == [['a', 'a.py', '3', threads, []],
                           ['b', 'b.py', '4', threads, [f'x={root}/a/epoch_2.pth', 'y=1']]]


def test_a_failure_stops_the_queue_and_what_is_done_stays(tmp_path, tool):
    root, runs = tmp_path / 'runs', [Run('a', 'a.py', 0), Run('b', 'broken.py', 0), Run('c', 'c.py', 0)]
    with pytest.raises(UserError, match='training b stopped with exit code 3: see .*b/output.txt'):
        train_all(tool, runs, root)
    assert [call[0] for call in calls(root)] in (['a', 'b'], ['a', 'b', 'c'])  # c may have begun already
    assert (root / 'a' / 'result.json').is_file() and not (root / 'b' / 'result.json').exists()


def test_other_settings_are_refused(tmp_path, tool):
    train_all(tool, [Run('a', 'a.py', 0)], tmp_path / 'runs')
    with pytest.raises(UserError, match=r"has a run with other settings, .*'seed': 0.*, not .*'seed': 1.*: remove it"):
        train_all(tool, [Run('a', 'a.py', 1)], tmp_path / 'runs')


def test_another_config_or_start_is_refused(tmp_path, tool):
    root, runs = tmp_path / 'runs', [Run('a', 'a.py', 0), Run('b', 'b.py', 0, ('x={a}', ))]
    train_all(tool, runs, root)
    os.utime(root / 'a' / 'epoch_2.pth', (0, 0))  # a copy of the folder is the same run
    train_all(tool, runs, root)
    (root / 'a' / 'epoch_2.pth').write_text('others')  # as if it had been trained anew
    with pytest.raises(UserError, match="runs/b has a run with other settings, .*'starts': {'a': '"):
        train_all(tool, runs, root)
    Path('a.py').write_text('max_epochs = 3\ntrain_cfg = dict(max_epochs=max_epochs)\n')
    with pytest.raises(UserError, match='runs/a has a run with other settings'):
        train_all(tool, runs[:1], root)


def test_a_queue_that_was_stopped_ahead_of_the_result_reads_it_from_the_log(tmp_path, tool):
    root, run = tmp_path / 'runs', Run('a', 'a.py', 0)
    train_all(tool, [run], root)
    (root / 'a' / 'result.json').unlink()
    assert train_all(tool, [run], root)['a']['knn/top1_k20'] == 80. and len(calls(root)) == 1


def test_a_run_that_was_stopped_in_its_last_validation_is_validated_again(tmp_path, tool):
    """The metric of an earlier epoch is none of the last, and the test set is not the validation set."""
    root, run = tmp_path / 'runs', Run('a', 'a.py', 0)
    with open('a.py', 'a') as file:
        file.write('val_evaluator, val_dataloader, val_cfg = dict(type=1), dict(batch_size=2), dict()\n')
    (tmp_path / 'test.py').write_text(TEST)
    with open(tool, 'a') as file:  # a validation of the first of two epochs
        file.write("open(log, 'a').write('\\n' + json.dumps({'accuracy/top1': 50., 'time': 1., 'step': 1}))\n")
    assert train_all(tool, [run], root)['a']['accuracy/top1'] == 90.
    assert calls(root)[1] == ['epoch_2.pth', dict(type=1), dict(batch_size=2), {}]
    (root / 'a' / 'result.json').unlink()
    log, = root.glob('a/*/vis_data/scalars.json')
    log.write_text(log.read_text() + '\n' + json.dumps({'accuracy/top1': 80., 'time': 1., 'step': 2}))
    assert train_all(tool, [run], root)['a']['accuracy/top1'] == 80. and len(calls(root)) == 2


def test_a_run_of_other_code_is_refused(tmp_path, tool, monkeypatch):
    """Its rows would stand beside those of the code of today."""
    train_all(tool, [Run('a', 'a.py', 0)], tmp_path / 'runs')
    monkeypatch.setattr('pervit_mm.benchmarks.kept_scores.NUMERICS', 0)
    with pytest.raises(UserError, match="runs/a has a run with other settings, .*, not .*'numerics': 0.*: remove it"):
        train_all(tool, [Run('a', 'a.py', 0)], tmp_path / 'runs')


def test_a_folder_of_another_command_is_refused(tmp_path, tool):
    train_all(tool, [Run('a', 'a.py', 0)], tmp_path / 'runs')
    (tmp_path / 'runs' / 'a' / 'settings.json').unlink()
    with pytest.raises(UserError, match='runs/a has a training that another command started, and nothing says by whi'):
        train_all(tool, [Run('a', 'a.py', 7)], tmp_path / 'runs')


def test_other_data_and_other_files_are_refused(tmp_path, tool):
    """What an option names, and what a tool wrote beside the data that it drew."""
    (tmp_path / 'scenes').mkdir()
    start, drawn = tmp_path / 'start.pth', tmp_path / 'scenes' / 'fashion_scenes.json'
    for path in (start, drawn):
        path.write_text('one')
    with open('b.py', 'a') as file:
        file.write("train_dataloader = dict(dataset=dict(dataset=dict(data_root='nowhere')))\n")
    root, run = tmp_path / 'runs', Run('b', 'b.py', 0, (
        f'load_from={start}', f'train_dataloader.dataset.dataset.data_root={tmp_path / "scenes"}'))
    for path in (start, drawn):
        train_all(tool, [run], root)
        path.write_text('two')
        with pytest.raises(UserError, match='runs/b has a run with other settings'):
            train_all(tool, [run], root)
        path.write_text('one')
    assert len(calls(root)) == 1


def test_mistakes_in_the_queue_are_told_ahead_of_all_runs(tmp_path, tool):
    for runs, words in (([Run('b', 'b.py', 0, ('x={a}', )), Run('a', 'a.py', 0)], 'b starts from a, which must come'),
                        ([Run('a', 'a.py', 0), Run('a', 'b.py', 0)], "got 'a' twice"),
                        ([Run('a', 'a.py', 0, ('x={a}', ))], 'a starts from a, which must come earlier')):
        with pytest.raises(UserError, match=words):
            train_all(tool, runs, tmp_path / 'runs')
    assert not (tmp_path / 'runs').exists()
    with pytest.raises(UserError, match="root must have no space, comma or bracket, .* got 'my runs'"):
        train_all(tool, [Run('a', 'a.py', 0), Run('b', 'b.py', 0, ('x={a}', ))], 'my runs')
