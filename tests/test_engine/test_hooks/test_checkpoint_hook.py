"""Saving: files are whole, the order of writing and removing loses nothing, and no other files are removed."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_run import toy_runner, weights

from pervit_mm.checkpoints import find_resumable, is_whole
from pervit_mm.utils.errors import UserError

ROOT = Path(__file__).parents[3]
BEST = dict(interval=1, max_keep_ckpts=1, save_best='score', rule='greater')

# The script forks once for each case, after all imports. The child of case n is killed at the n-th moment. A moment is
# a call that changes the folder, or the middle of writing a checkpoint.
KILLS = '''
import json
import os
import signal
import sys
from pathlib import Path

import torch
torch.set_num_threads(1)
from toy_run import toy_runner
from mmengine.runner import Runner
import mmengine.fileio.backends.local_backend as local

root, moments = Path(sys.argv[1]), int(sys.argv[2])
best = dict(interval=1, max_keep_ckpts=1, save_best='score', rule='greater')
options = dict(checkpoint=best, scores=[1., 3., 2., 5.], epochs=4)


def run(folder, kill_at):
    count = [0]

    def moment():
        count[0] += 1
        if count[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(function):
        def wrapped(*args, **kwargs):
            moment()
            return function(*args, **kwargs)
        return wrapped

    for name in ('replace', 'remove', 'fsync', 'unlink'):
        setattr(os, name, before(getattr(os, name)))
    put = local.LocalBackend.put

    def in_halves(self, obj, path):
        with open(path, 'wb') as file:
            file.write(obj[:len(obj) // 2])
            file.flush()
            moment()
            file.write(obj[len(obj) // 2:])

    local.LocalBackend.put = in_halves
    toy_runner(folder, resume=True, **options).train()
    return count[0]


for number in range(moments + 1):
    folder = root / f'kill_{number}'
    child = os.fork()
    if child == 0:
        sys.stdout = open(os.devnull, 'w')
        total = run(folder, number or -1)
        if number == 0:
            (root / 'total').write_text(str(total))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(json.dumps([number, os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)]), flush=True)
'''


def names(folder):
    """Names of the files in a work directory, without the config that MMEngine writes."""
    return sorted(path.name for path in Path(folder).iterdir() if path.is_file() and path.suffix != '.py')


def test_keeps_as_many_as_asked_for_and_the_best(tmp_path):
    run = toy_runner(tmp_path, epochs=4, scores=[1., 3., 2., 5.], checkpoint={**BEST, 'max_keep_ckpts': 2})
    run.train()
    assert names(tmp_path) == ['best_score_epoch_4.pth', 'epoch_3.pth', 'epoch_4.pth', 'last_checkpoint']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_4.pth')
    saved = torch.load(tmp_path / 'epoch_4.pth', weights_only=True)
    assert all(torch.equal(saved['state_dict'][key], value) for key, value in weights(run).items())
    assert saved['message_hub']['runtime_info']['best_ckpt'] == str(tmp_path / 'best_score_epoch_4.pth')


def test_runs_by_iteration_keep_the_last_checkpoint_and_the_best(tmp_path):
    run = toy_runner(tmp_path, by_iteration=7, scores=[2., 1.],
                     checkpoint=dict(by_epoch=False, interval=2, max_keep_ckpts=1, save_best='auto', rule='less'))
    run.train()
    assert names(tmp_path) == ['best_score_iter_6.pth', 'iter_7.pth', 'last_checkpoint']


def test_the_new_checkpoint_is_whole_before_the_old_one_goes(tmp_path, monkeypatch):
    seen, remove = [], os.remove

    def watched(path, *args):
        seen.append((Path(path).name, sorted(p.name for p in tmp_path.glob('*.pth') if is_whole(p)),
                     Path((tmp_path / 'last_checkpoint').read_text()).name))
        remove(path, *args)

    monkeypatch.setattr(os, 'remove', watched)
    toy_runner(tmp_path, checkpoint=dict(interval=1, max_keep_ckpts=1)).train()
    assert seen == [('epoch_1.pth', ['epoch_1.pth', 'epoch_2.pth'], 'epoch_2.pth'),
                    ('epoch_2.pth', ['epoch_2.pth', 'epoch_3.pth'], 'epoch_3.pth')]


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='each kill is a fork')
def test_a_run_killed_at_any_moment_of_saving_goes_on(tmp_path):
    """For each of the first 40 moments: all files left are whole, and the resumed run ends like the undisturbed one."""
    moments = 40
    out = subprocess.run(
        [sys.executable, '-c', KILLS, str(tmp_path), str(moments)], capture_output=True, text=True, timeout=300,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "tests"}'})
    assert out.returncode == 0, out.stderr[-3000:]
    ends = dict(json.loads(line) for line in out.stdout.splitlines() if line.startswith('['))
    total = int((tmp_path / 'total').read_text())
    assert total >= 30, 'moments that the undisturbed run has'
    assert ends[0] == 0 and all(ends[n] == (9 if n <= total else 0) for n in range(1, moments + 1)), ends
    expected = torch.load(tmp_path / 'kill_0' / 'epoch_4.pth', weights_only=True)['state_dict']
    files = names(tmp_path / 'kill_0')
    for number in range(1, min(moments, total) + 1):
        folder = tmp_path / f'kill_{number}'
        for path in folder.glob('*.pth'):
            assert is_whole(path), f'{path} after kill {number}'
        path, _ = find_resumable(folder)
        done = 0 if path is None else int(Path(path).stem.split('_')[1])
        if done == 4:
            continue  # the run had finished, and only old files were still to be removed
        run = toy_runner(folder, epochs=4, scores=[1., 3., 2., 5.], resume=True, checkpoint=BEST)
        run.val_evaluator.metrics[0].calls = done
        run.train()
        saved = torch.load(folder / 'epoch_4.pth', weights_only=True)['state_dict']
        assert all(torch.equal(saved[key], value) for key, value in expected.items()), f'kill {number}'
        assert 'epoch_3.pth' not in names(folder) and not list(folder.glob('.*.partial')), f'kill {number}'
        assert {'epoch_4.pth', 'best_score_epoch_4.pth'} <= set(names(folder)) and len(files) == 3


@pytest.mark.parametrize('info', [
    dict(best_ckpt='{outside}/folder'), dict(best_ckpt='{outside}/file.pth'),
    dict(best_ckpt='{work}/../outside/file.pth'),
    dict(best_ckpt='{work}/logs'), dict(best_ckpt='{work}/notes.txt'), dict(keep_ckpt_ids=['../outside/file', 'x', 1]),
    dict(keep_ckpt_ids=[7, 8, 9]), dict(best_ckpt=3), dict(keep_ckpt_ids={'a': 1})])
def test_a_checkpoint_cannot_have_anything_else_removed(tmp_path, info):
    work, outside = tmp_path / 'work', tmp_path / 'outside'
    options = dict(scores=[1., 2., 3.], checkpoint=BEST)
    toy_runner(work, epochs=1, **options).train()
    for path in (outside / 'folder' / 'precious', outside / 'file.pth', work / 'logs' / 'precious', work / 'notes.txt',
                 work / 'epoch_7.pth' / 'precious'):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('precious')
    content = torch.load(work / 'epoch_1.pth', weights_only=True)

    def fill(value):
        return value.format(work=work, outside=outside) if isinstance(value, str) else value

    content['message_hub']['runtime_info'].update({
        key: [fill(v) for v in value] if isinstance(value, list) else fill(value) for key, value in info.items()})
    torch.save(content, work / 'epoch_1.pth')
    toy_runner(work, epochs=3, resume=True, **options).train()
    for path in (outside / 'folder' / 'precious', outside / 'file.pth', work / 'logs' / 'precious', work / 'notes.txt',
                 work / 'epoch_7.pth' / 'precious'):
        assert path.read_text() == 'precious', path


def test_a_run_in_a_copied_folder_removes_its_own_files_alone(tmp_path):
    """Its checkpoints name the best checkpoint of the folder from which it was copied."""
    options = dict(scores=[1., 2., 3.], checkpoint=BEST)
    toy_runner(tmp_path / 'a', epochs=1, **options).train()
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    run = toy_runner(tmp_path / 'b', epochs=2, resume=True, **options)
    run.val_evaluator.metrics[0].calls = 1
    run.train()
    assert names(tmp_path / 'a') == ['best_score_epoch_1.pth', 'epoch_1.pth', 'last_checkpoint']
    assert names(tmp_path / 'b') == ['best_score_epoch_2.pth', 'epoch_2.pth', 'last_checkpoint']


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    run = toy_runner(tmp_path, epochs=2, optimizer=dict(type='SGD', lr=1e30))
    with pytest.raises(UserError, match=r'the weights are not finite after iteration \d+ \(linear.* nothing is saved'):
        run.train()
    assert not list(tmp_path.glob('*.pth'))


def test_leftovers_of_a_killed_run_are_removed_and_nothing_like_them(tmp_path):
    for name in ('.epoch_3.pth.partial', '.best_score_epoch_3.pth.partial', '.mine.pth.partial', '.epoch_3.pth.other'):
        (tmp_path / name).touch()
    toy_runner(tmp_path, epochs=1, scores=[1.], checkpoint=dict(interval=1, save_best='score', rule='greater')).train()
    assert {'.mine.pth.partial', '.epoch_3.pth.other'} == {p.name for p in tmp_path.glob('.*')}


def test_a_misspelled_best_metric_is_named(tmp_path):
    run = toy_runner(tmp_path, scores=[1.], checkpoint=dict(interval=1, save_best='socre', rule='greater'))
    with pytest.raises(UserError, match="save_best='socre' of the checkpoint hook is none of the metrics, .* score"):
        run.train()


def test_files_get_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        toy_runner(tmp_path, epochs=1).train()
    finally:
        os.umask(before)
    for name in ('epoch_1.pth', 'last_checkpoint'):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o640, name
