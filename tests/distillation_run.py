"""Small models with a teacher, and runs with them of a fraction of a second."""
import copy
import math
from itertools import count

import numpy as np
import torch
from conftest import TINY_ARCH, randomize
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from pervit_mm.engine import PerViTRunner
from pervit_mm.selfsup import SelfDistillation, SiT

#: MMEngine wants a different name for each run of a process.
_RUNS = count()
BACKBONE = dict(type='PerViT', arch=TINY_ARCH, img_size=28, in_channels=1, out_type='raw')
MASKED = dict(BACKBONE, type='MaskTokenPerViT')
NECK = dict(type='DistillationNeck', in_channels=24, out_channels=8, hid_channels=12, bottleneck_channels=6)
DINO = dict(backbone=BACKBONE, neck=NECK, head=dict(type='DistillationHead', out_channels=8), momentum=0.9)
IBOT = dict(
    DINO, backbone=MASKED, token_head=dict(type='TokenDistillationHead', out_channels=8, teacher_temp=0.07),
    masking=dict(type='TokenBlockMask', ratio=(0.3, 0.5), prob=1))
ATTMASK = dict(IBOT, masking=dict(type='AttentionMask', ratio=(0.3, 0.3), prob=1, hint=False))
ESVIT = dict(
    DINO, region_neck=dict(NECK, out_channels=10), region_head=dict(type='RegionMatchingHead', out_channels=10),
    region_weight=0.25)
SIT = dict(
    backbone=BACKBONE,
    neck=dict(type='NonLinearNeck', in_channels=24, hid_channels=16, out_channels=8, num_layers=3, with_avg_pool=False,
              norm_cfg=dict(type='BN1d')),
    decoder=dict(type='TokenDecoder', in_channels=24, encoder_stride=4, out_channels=1),
    head=dict(type='ContrastHead'), corruption=dict(type='GroupCorruption'),
    pixel_loss=dict(type='mmpretrain.PixelReconstructionLoss', criterion='L1', channel=1), momentum=0.9)


def options_of(system, backbone=None, **options):
    """The options of a system with some of them changed."""
    return copy.deepcopy({**system, 'backbone': {**system['backbone'], **(backbone or {})}, **options})


def distiller(system=DINO, backbone=None, **options):
    """A model whose student and teacher hold different random weights, at the start of a run."""
    model = randomize((SiT if 'corruption' in system else SelfDistillation)(**options_of(system, backbone, **options)))
    model.set_progress(0.)
    return model


def make_views(batch=3, sizes=(28, 28, 16)):
    """Normalized views of random images."""
    return [torch.randn(batch, 1, size, size) for size in sizes]


def calls_of(module):
    """The arguments of each call of a module from now on."""
    calls = []
    module.register_forward_pre_hook(lambda module, args: calls.append(args))
    return calls


def slow_cross_entropy(student, teacher, center, student_temp=0.1, teacher_temp=0.04):
    """-softmax((t - c) / τt) · log softmax(s / τs) of two vectors of logits, one number at a time."""
    sharp = [math.exp((t - c) / teacher_temp) for t, c in zip(teacher.tolist(), center.tolist())]
    flat = [math.exp(s / student_temp) for s in student.tolist()]
    return -sum(t / sum(sharp) * math.log(s / sum(flat)) for t, s in zip(sharp, flat))


@DATASETS.register_module(force=True)
class RandomViews(BaseDataset):
    """Random images of 8 bits, several views of each, with boxes that overlap. One number for ``sizes``: no views."""

    def __init__(self, number=8, sizes=(28, 28, 16), channels=1):
        self.number, self.sizes, self.channels = number, sizes, channels
        super().__init__(serialize_data=False)  # it would collect garbage for half a second

    def load_data_list(self):
        return [dict(index=i) for i in range(self.number)]

    def prepare_data(self, idx):
        from mmpretrain.structures import DataSample
        rng = np.random.default_rng(idx)
        if isinstance(self.sizes, int):
            image = rng.integers(0, 255, (self.channels, self.sizes, self.sizes), np.uint8)
            return dict(inputs=torch.from_numpy(image), data_samples=DataSample())
        inputs = [torch.from_numpy(rng.integers(0, 255, (self.channels, size, size), np.uint8)) for size in self.sizes]
        sample = DataSample()
        sample.boxes = np.array([[i, idx % 3, i + 20, idx % 3 + 24] for i in range(len(self.sizes))], np.float32)
        return dict(inputs=inputs, data_samples=sample)


def distillation_runner(work_dir, model=DINO, hooks=(dict(type='DistillationHook'), ), epochs=2, images=8,
                        channels=1, optim_wrapper=None, optimizer=None, train_cfg=None, checkpoint=None,
                        sizes=(28, 28, 16), **kwargs):
    """A ``PerViTRunner`` in this process, with batches of four images. ``model``: options of a system, or a model."""
    if isinstance(model, dict):
        kind = 'SiT' if 'corruption' in model else 'SelfDistillation'
        model = dict(dict(type=kind), **copy.deepcopy(model), data_preprocessor=dict(mean=[127.], std=[64.]))
    return PerViTRunner(
        model=model, work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=4, num_workers=0,
            dataset=dict(type='RandomViews', number=images, sizes=sizes, channels=channels),
            collate_fn=dict(type='default_collate'), sampler=dict(type='DefaultSampler', shuffle=True)),
        train_cfg=train_cfg or dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=optimizer or dict(type='AdamW', lr=1e-3, weight_decay=0.1),
                           **(optim_wrapper or {})),
        default_hooks=dict(checkpoint=checkpoint),
        custom_hooks=[dict(type='PerViTRandomStateHook'), *hooks], default_scope='mmpretrain',
        randomness=dict(seed=0), log_level='WARNING', experiment_name=f'distillation_{next(_RUNS)}', **kwargs)
