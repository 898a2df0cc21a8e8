"""A file that is written is there as a whole or not at all."""
import stat

import pytest

from pervit_mm.utils.atomic_write import replacing


def test_the_path_never_holds_a_part_of_a_file(tmp_path):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'as it was')
    with pytest.raises(KeyboardInterrupt), replacing(path) as writer:
        writer.write(b'half')
        writer.flush()
        assert path.read_bytes() == b'as it was' and len(list(tmp_path.iterdir())) == 2
        raise KeyboardInterrupt
    assert path.read_bytes() == b'as it was' and list(tmp_path.iterdir()) == [path]
    with replacing(str(path)) as writer:
        writer.write(b'new')
    assert path.read_bytes() == b'new' and list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644, 'others may read it'
