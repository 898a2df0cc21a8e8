"""The whole configs of a page, and a folder like the top of a clone that has them."""
import re
from pathlib import Path

import torch

from pervit_mm.models import PerViT

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r'^```python\n# (my_\w+\.py)\n(.*?)^```', re.S | re.M)


def read_page(name):
    """The text of a page in docs."""
    return (ROOT / 'docs' / name).read_text()


def page_configs(name):
    """Text of each ``my_*.py`` of a page, by name."""
    return dict(_BLOCK.findall(read_page(name)))


def make_clone(folder, configs):
    """Write configs beside the repository's own."""
    for name, text in configs.items():
        (folder / name).write_text(text)
    (folder / 'configs').symlink_to(ROOT / 'configs')


def write_tiny(path, prefix='backbone.'):
    """Write random weights of PerViT-T as a checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict={f'{prefix}{key}': value for key, value in PerViT('tiny').state_dict().items()}), path)
