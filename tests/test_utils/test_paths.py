"""Paths for a reader."""
import ntpath
import os

from pervit_mm.utils.paths import shown


def test_a_path_is_seen_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown(str(tmp_path / 'a' / 'b.pth')) == os.path.join('a', 'b.pth')


def test_another_drive_of_windows_has_no_relative_path(monkeypatch):
    monkeypatch.setattr(os.path, 'relpath', lambda path: ntpath.relpath(path, 'C:\\here'))
    assert shown('D:\\runs\\a.pth') == 'D:\\runs\\a.pth' and shown('C:\\here\\a.pth') == 'a.pth'
