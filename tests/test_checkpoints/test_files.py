"""Checkpoint files of any kind: how they are read by path or name, and how they are written."""
import argparse
import zipfile

import pytest
import torch

from pervit_mm.checkpoints import is_whole, published
from pervit_mm.checkpoints.files import own_tensor, read_checkpoint, read_classifier, to_bytes, write_checkpoint
from pervit_mm.utils.errors import UserError

STATE = {'backbone.weight': torch.arange(3.)}


def test_published_files_load_by_name_if_their_sum_is_right(tmp_path, monkeypatch):
    """A file loads only if its sha256 is right. A file of that name in the current folder is never taken."""
    (tmp_path / 'checkpoints').mkdir()
    (tmp_path / 'model-index.yml').write_text('Import: []')
    monkeypatch.setattr(published, 'package_root', lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'checkpoints' / 'a.pth'
    digest = write_checkpoint(dict(state_dict=STATE), path)
    whole = path.read_bytes()
    torch.save(dict(state_dict={}), 'a.pth')
    sums = tmp_path / 'checkpoints' / 'SHA256SUMS'
    sums.write_text(f'{published.hashlib.sha256(whole).hexdigest()}  a.pth\n')
    assert digest == sums.read_text()[:8]
    assert torch.equal(read_classifier('pervit_mm://a.pth')['backbone.weight'], torch.tensor([0., 1., 2.]))
    path.write_bytes(whole + b'0')
    with pytest.raises(ValueError, match="a.pth' is not what was published and was not loaded: its sha256 is"):
        read_checkpoint('pervit_mm://a.pth')
    with pytest.raises(ValueError, match='pervit_mm://b.pth is none of the checkpoints that come with pervit_mm'):
        read_checkpoint('pervit_mm://b.pth')


def test_bytes_depend_on_the_content_alone():
    """For a view, torch.save writes the whole storage behind it."""
    store = torch.zeros(100, 100)
    one, other = (to_bytes(dict(a=own_tensor(x))) for x in (store[:, :3], torch.zeros(100, 3)))
    assert one == other and len(one) < len(to_bytes(dict(a=store[:, :3]))) / 5
    assert own_tensor(torch.nn.Parameter(store)).requires_grad is False


def test_an_argparse_namespace_is_not_created(tmp_path, monkeypatch):
    """The object that replaces it takes any state and keeps none of it."""
    seen = []
    load = torch.load
    monkeypatch.setattr(torch, 'load', lambda *args, **kwargs: seen.append(load(*args, **kwargs)) or seen[-1])
    args = argparse.Namespace(lr=4)
    vars(args).update(__class__=1, __setstate__=2)
    torch.save(dict(model=STATE, args=args), tmp_path / 'a.pth')
    read_checkpoint(tmp_path / 'a.pth')
    stand_in = seen[-1]['args']
    assert not isinstance(stand_in, argparse.Namespace) and not hasattr(stand_in, 'lr')
    assert not hasattr(stand_in, '__dict__') and type(stand_in).__name__ == 'Namespace'


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="path: 'nowhere.pth' is not a file"):
        read_checkpoint('nowhere.pth')
    with pytest.raises(ValueError, match='is not a file'):
        read_checkpoint(tmp_path)
    path = tmp_path / 'a.pth'
    torch.save(STATE, path)
    whole = path.read_bytes()
    for data in (b'', b'<html>not found</html>', whole[:len(whole) // 2], bytes(1000)):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="a.pth' cannot be read as a PyTorch checkpoint .* check that it is"):
            read_checkpoint(path)


def test_writing_is_all_or_nothing(tmp_path):
    path = tmp_path / 'out.pth'
    digest = write_checkpoint(dict(model=1), path)
    assert len(digest) == 8 and torch.load(path, weights_only=True) == dict(model=1)
    with pytest.raises(ValueError, match='exists already; give another path, or --force'):
        write_checkpoint(dict(model=2), path)
    with pytest.raises(AttributeError, match='pickle|local'):
        write_checkpoint(dict(model=lambda: 0), path, force=True)
    assert torch.load(path, weights_only=True) == dict(model=1) and list(tmp_path.iterdir()) == [path]
    assert write_checkpoint(dict(model=2), str(path), force=True) != digest
    assert torch.load(path, weights_only=True) == dict(model=2) and list(tmp_path.iterdir()) == [path]
    for wrong in (tmp_path, tmp_path / 'missing' / 'out.pth'):
        with pytest.raises(ValueError, match='cannot be written; give the path of a file in a folder that exists'):
            write_checkpoint(dict(model=1), wrong, force=True)


def test_a_compressed_archive_is_not_unpacked(tmp_path):
    """64 MB of zeros in 64 kB: PyTorch compresses nothing."""
    torch.save(dict(state_dict=dict(w=torch.zeros(16 * 2**20))), tmp_path / 'plain.pth')
    path = tmp_path / 'bomb.pth'
    with zipfile.ZipFile(tmp_path / 'plain.pth') as plain, zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match=r'bomb.pth. has [\d,]+ bytes and declares 67,1\d\d,\d{3}: PyTorch compresses '
                       'nothing'):
        read_checkpoint(path)
    assert len(read_checkpoint(tmp_path / 'plain.pth')['state_dict']['w']) == 16 * 2**20


def test_a_tensor_larger_than_its_memory_is_refused(tmp_path):
    torch.save(dict(state_dict=dict(a=torch.ones(3), b=[torch.ones(1).expand(10**9)])), tmp_path / 'a.pth')
    with pytest.raises(UserError, match=r"refused: content\['state_dict'\]\['b'\]\[0\] declares more values"):
        read_checkpoint(tmp_path / 'a.pth')


def test_a_flipped_bit_is_seen(tmp_path):
    """torch.load does not look at the checksums that torch.save writes."""
    torch.save(dict(state_dict=dict(w=torch.arange(10000.))), tmp_path / 'a.pth')
    data = bytearray((tmp_path / 'a.pth').read_bytes())
    data[data.find(torch.arange(500., 504.).numpy().tobytes()) + 2] ^= 0x40
    (tmp_path / 'b.pth').write_bytes(data)
    assert not torch.equal(torch.load(tmp_path / 'b.pth', weights_only=True)['state_dict']['w'], torch.arange(10000.))
    with pytest.raises(UserError, match=r"b.pth' is damaged: the content of its entry '.*/data/0' is not what was"):
        read_checkpoint(tmp_path / 'b.pth')
    assert is_whole(tmp_path / 'b.pth') is False
