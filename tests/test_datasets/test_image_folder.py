"""The folder of drawn JPEG images."""
import pytest

from pervit_mm.datasets.image_folder import make_image_folder


def test_image_folder_is_seeded(tmp_path):
    for name in 'ab':
        make_image_folder(str(tmp_path / name), num_classes=2, train_images=1, val_images=1)
    files = sorted(path.relative_to(tmp_path / 'a') for path in (tmp_path / 'a').rglob('*.JPEG'))
    assert len(files) == 4
    for file in files:
        content = (tmp_path / 'a' / file).read_bytes()
        assert content[:3] == b'\xff\xd8\xff', 'a JPEG file'
        assert content == (tmp_path / 'b' / file).read_bytes()
    assert (tmp_path / 'a' / 'classes.txt').read_text() == 'cross\ndiamond\n'
    with pytest.raises(ValueError, match="already has a 'train'"):
        make_image_folder(str(tmp_path / 'a'))
    with pytest.raises(ValueError, match='num_classes .* 1 to 6, got 7'):
        make_image_folder(str(tmp_path / 'c'), num_classes=7)
