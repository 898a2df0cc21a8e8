"""A small ImageNet recipe on a folder of real JPEG files, for tests of tools/train.py and of its preparations."""
from pathlib import Path

from pervit_mm.datasets.image_folder import make_image_folder
from pervit_mm.engine import launch

ROOT = Path(__file__).parents[1]

# A hook that the config imports. It records the raw loss of each iteration (the log has running means) and each rank's
# parameters. KILL_AT kills the run before that iteration.
RECORDER = '''
import json
import os
import signal

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Recorder(Hook):

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == int(os.environ.get('KILL_AT', -1)):
            os.kill(os.getpid(), signal.SIGKILL)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with open(f'{runner.work_dir}/losses_{get_rank()}.jsonl', 'a') as file:
            file.write(json.dumps([runner.iter, float(outputs['loss'])]) + '\\n')

    def after_train(self, runner):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        torch.save(dict(model.named_parameters()), f'{runner.work_dir}/parameters_{get_rank()}.pth')
'''

# The recipe of configs/pervit_tiny.py with a smaller network and a smaller folder of images.
SMALL = '''
_base_ = {base!r}
custom_imports = dict(imports=['pervit_mm', 'recorder'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=(8, 12), depths=(1, 1), num_heads=2,
            stem_channels=(4, 4, 4)),
        drop_path_rate=0.5),
    head=dict(in_channels=12))
data = dict(data_root={data!r}, classes={data!r} + '/classes.txt')
train_dataloader = dict(batch_size=4, num_workers=1, dataset=data)
val_dataloader = dict(batch_size=4, num_workers=1, dataset=data)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2)
custom_hooks = [dict(type='PerViTRandomStateHook'), dict(type='Recorder')]
'''


def write_world(root):
    """Write data, config and recorder into a folder, and return it."""
    make_image_folder(str(root / 'data'), num_classes=3, train_images=8, val_images=4)
    (root / 'recorder.py').write_text(RECORDER)
    (root / 'small.py').write_text(
        SMALL.format(base=str(ROOT / 'configs' / 'pervit_tiny.py'), data=str(root / 'data')))
    return root


def prepare(cfg, **options):
    """Prepare a config for training, as tools/train.py does with a config of this name."""
    return launch.prepare_config(cfg, 'configs/small.py', **options)
