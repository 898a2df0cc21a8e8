"""The snippets of docs/recipes.md, run as they stand there on a few images, for tests/test_recipes."""
import json
import re
from pathlib import Path

import numpy as np
from made_items import write_idx
from mmengine.runner import Runner

from pervit_mm.apis.configs import load_config
from pervit_mm.engine import launch

ROOT = Path(__file__).parents[1]

# The base of the snippets with images of its own, and without worker processes.
BASE = '''
_base_ = {base!r}
train_dataloader = dict(
    batch_size=16, num_workers=0, persistent_workers=False, dataset=dict(data_root={data!r}))
val_dataloader = dict(batch_size=20, num_workers=0, persistent_workers=False, dataset=dict(data_root={data!r}))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2)
param_scheduler = []  # with its warm-up, weights would hardly move in eight iterations
default_hooks = dict(logger=dict(interval=1))
'''


def snippets(title: str) -> list[str]:
    """The blocks of Python code under a heading of the page."""
    section, = re.findall(rf'^## {re.escape(title)}$(.*?)(?=^## |\Z)', (ROOT / 'docs' / 'recipes.md').read_text(),
                          re.S | re.M)
    return re.findall(r'^```python\n(.*?)^```', section, re.S | re.M)


def write_data(root: Path, train: int = 64, test: int = 40) -> Path:
    """Bright squares, each class at a height and a brightness of its own, in noise: Fashion-MNIST's four files."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, count in (('train', train), ('t10k', test)):
        images, labels = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10
        for image, label in zip(images, labels):
            image[2 * label + 2:2 * label + 8, 3:12] = 120 + 13 * label
        write_idx(root / f'{name}-images-idx3-ubyte', images)
        write_idx(root / f'{name}-labels-idx1-ubyte', labels)
    return root


def write_config(folder: Path, snippet: str, name: str = 'my_run.py') -> Path:
    """Write a config that is a snippet, whose base is made small."""
    data, base = write_data(folder / 'data'), re.search(r"^_base_ = '(.*)'$", snippet, re.M)[1]
    (folder / 'base.py').write_text(BASE.format(base=str(ROOT / base), data=str(data)))
    (folder / name).write_text(snippet.replace(base, str(folder / 'base.py')))
    return folder / name


def trained(config: Path, hooks: tuple = ()) -> Runner:
    """Train, as tools/train.py does, with hooks that look on."""
    cfg = load_config(config, dict(experiment_name=f'train_{config.parent.name}'))
    launch.prepare_config(cfg, str(config), work_dir=str(config.parent / 'work_dir'))
    runner = launch.build_runner(cfg)
    for hook in hooks:
        runner.register_hook(hook, 'LOWEST')
    runner.train()
    return runner


def runner_to_test(config: Path, checkpoint: Path, tta: bool = False, **options) -> Runner:
    """A runner that is ready to test, as tools/test.py builds it."""
    cfg = load_config(config, dict(options, experiment_name=f'test_{config.parent.name}_{config.stem}_{tta}'))
    launch.prepare_test_config(cfg, str(config), str(checkpoint), work_dir=str(config.parent / 'work_dir'), tta=tta)
    return launch.build_runner(cfg)


def predictions(runner: Runner) -> list:
    """Predictions for all test images, one after the other."""
    runner.load_or_resume()
    runner.model.eval()
    return [sample for batch in runner.test_dataloader for sample in runner.model.test_step(batch)]


def scalars(runner: Runner, key: str) -> list[float]:
    """What MMEngine's local backend wrote under a key."""
    path, = Path(runner.work_dir).rglob('scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line[key] for line in lines if key in line]
