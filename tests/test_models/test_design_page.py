"""docs/design.md: its code runs, and what it names is there."""
import re

import torch
from page_code import DOCS, run_section

from pervit_mm.models import PerViT

ROOT = DOCS.parent


def test_the_code_of_the_page_runs():
    """The first block compares distances by offsets with those by definition."""
    run_section('design.md', 'Why Φp is cheap')
    own, = run_section('design.md', 'A position module of your own')
    position = own['model'].blocks[0].attn.position
    near, far = position((2, 3), None)[0, 0, [1, 2]].tolist()
    assert isinstance(position, own['Reach']) and own['features'].shape == (2, 96) and far == 2 * near < 0
    with torch.no_grad():
        windowed = PerViT('nano', img_size=28, window_size=7, out_type='featmap', position_cfg=dict(type='Reach'))(
            torch.rand(1, 3, 56, 56))
    assert windowed[0].shape == (1, 96, 14, 14)


def test_the_files_of_the_page_exist():
    text = (DOCS / 'design.md').read_text()
    table = text.split('## From equation to file')[1].split('\n## ')[0]
    rows = [line for line in table.splitlines() if line.startswith('| ')][2:]  # without the heads
    files = [path for line in rows for path in re.findall(r'`([\w/]+(?:\.py|/))`', line)]
    assert len(files) > 15
    for path in files:
        where = path if path.startswith('tests/') else f'tests/test_models/{path}' if path.startswith('test_') else (
            f'pervit_mm/{path}')
        assert (ROOT / where).exists(), path
