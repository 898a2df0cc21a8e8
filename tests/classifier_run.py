"""A classifier on random images in a real runner, for tests of hooks."""
import numpy as np
import torch
from conftest import TINY_ARCH
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from mmengine.runner import Runner


@DATASETS.register_module(force=True)
class RandomImages(BaseDataset):
    """Eight random images of two classes."""

    def load_data_list(self):
        return [dict(index=i) for i in range(8)]

    def prepare_data(self, idx):
        from mmpretrain.structures import DataSample
        rng = np.random.default_rng(idx)
        image = torch.from_numpy(rng.integers(0, 255, (3, 28, 28), dtype=np.uint8))
        return dict(inputs=image, data_samples=DataSample().set_gt_label(idx % 2))


def runner(work_dir, hooks, backbone=None, epochs=2, train_cfg=None, **kwargs):
    runner = Runner(
        model=dict(
            type='ImageClassifier',
            data_preprocessor=dict(num_classes=2, mean=[127.] * 3, std=[64.] * 3),
            backbone=dict(type='PerViT', arch=TINY_ARCH, img_size=28, **(backbone or {})),
            head=dict(type='LinearClsHead', num_classes=2, in_channels=24, topk=(1, ))),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=4, num_workers=0, dataset=dict(type='RandomImages'), collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=train_cfg or dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        custom_hooks=hooks, default_scope='mmpretrain', randomness=dict(seed=0), log_level='INFO',
        experiment_name=f'{work_dir.name}_{len(list(work_dir.iterdir())) if work_dir.exists() else 0}', **kwargs)
    return runner


def log_of(runner):
    return open(f'{runner.log_dir}/{runner.timestamp}.log').read()


def sizes(model):
    return [block.attn.position.norm2.bias.mean().item() for block in model.backbone.blocks]


class Recorder:
    """Records the mean ``norm2.bias`` of each block before each iteration."""

    def __init__(self, runner):
        from mmengine.hooks import Hook
        hook = Hook()
        hook.before_train_iter = lambda runner, *a, **k: self.values.append(sizes(runner.model))
        self.values = []
        runner.register_hook(hook, 'VERY_LOW')
