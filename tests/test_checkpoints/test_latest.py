"""Which checkpoint of a folder a resumed run starts from."""
import shutil

import pytest
import torch

from pervit_mm.checkpoints import find_resumable, is_whole
from pervit_mm.utils.errors import UserError


def save(path, **content):
    torch.save(dict(dict(meta=dict(epoch=1), state_dict=dict(w=torch.ones(300))), **content), path)


@pytest.fixture
def folder(tmp_path):
    work = tmp_path / 'work'
    work.mkdir()
    for number in (1, 2, 10):
        save(work / f'epoch_{number}.pth')
    save(work / 'best_score_epoch_10.pth')
    (work / 'last_checkpoint').write_text(str(work / 'epoch_10.pth'))
    return work


def test_the_checkpoint_that_last_checkpoint_names_is_taken(folder):
    assert find_resumable(folder) == (str(folder / 'epoch_10.pth'), None)


def test_a_copied_folder_uses_its_own_checkpoint(folder, tmp_path):
    shutil.copytree(folder, tmp_path / 'copy')
    assert find_resumable(tmp_path / 'copy') == (str(tmp_path / 'copy' / 'epoch_10.pth'), None)


@pytest.mark.parametrize('text, reason', [
    (b'', 'is empty or names no file'), (b'https://example.org/epoch_3.pth', 'is empty or names no file'),
    (b'/elsewhere/epoch_99.pth', "names 'epoch_99.pth', which is not there"), (b'\0\xff', 'is empty or names no file'),
    (b'../../etc/passwd', "names 'passwd', which is not there"), (None, 'has no last_checkpoint')])
def test_the_newest_whole_checkpoint_is_taken_if_none_is_named(folder, text, reason):
    if text is None:
        (folder / 'last_checkpoint').unlink()
    else:
        (folder / 'last_checkpoint').write_bytes(text)
    path, note = find_resumable(folder)
    assert path == str(folder / 'epoch_10.pth') and reason in note and 'the newest whole checkpoint' in note


@pytest.mark.parametrize('damage', [lambda data: data[:len(data) // 2], lambda data: b'', lambda data: b'text'])
def test_damaged_checkpoints_are_passed_over(folder, damage):
    for number in (10, 2):
        path = folder / f'epoch_{number}.pth'
        path.write_bytes(damage(path.read_bytes()))
        assert not is_whole(path)
    path, note = find_resumable(folder)
    assert path == str(folder / 'epoch_1.pth') and 'epoch_10.pth, which last_checkpoint names, is damaged' in note


def test_only_damaged_checkpoints_are_an_error_and_none_at_all_is_not(folder, tmp_path):
    for path in folder.glob('epoch_*.pth'):
        path.write_bytes(b'')
    with pytest.raises(UserError, match=r'^--resume: .*is damaged .* no whole checkpoint beside it \(3 looked at\)'):
        find_resumable(folder)
    assert find_resumable(tmp_path / 'empty') == (None, None)


def test_checkpoints_are_found_in_another_folder(folder, tmp_path):
    (tmp_path / 'out').mkdir()
    save(tmp_path / 'out' / 'epoch_11.pth')
    (folder / 'last_checkpoint').write_text('/mnt/out/epoch_11.pth')
    assert find_resumable(folder, [tmp_path / 'out']) == (str(tmp_path / 'out' / 'epoch_11.pth'), None)


def test_a_file_without_the_state_of_a_run_is_not_resumable(tmp_path):
    torch.save(dict(state_dict={}), tmp_path / 'epoch_3.pth')
    assert not is_whole(tmp_path / 'epoch_3.pth')
