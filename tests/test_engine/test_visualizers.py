"""The hooks around Φp through each toolbox's own visualizer, into TensorBoard's files and the local ones."""
import copy
import json

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY_ARCH
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS, VISUALIZERS
from mmengine.runner import Runner

from pervit_mm.analysis import draw_position_maps, position_nonlocality
from pervit_mm.models import PerViT

EPOCHS, BLOCKS = 3, 3


@MODELS.register_module(force=True)
class ReachModel(BaseModel):
    """A PerViT without a task, which no toolbox has to know."""

    def __init__(self):
        super().__init__()
        self.backbone = PerViT(TINY_ARCH, img_size=(28, 20))

    def forward(self, image, mode='tensor'):
        return dict(loss=self.backbone(image)[-1].softmax(1)[:, 0].mean())


class Snapshots(Hook):
    """Keeps the backbone at the start and after each epoch."""

    def __init__(self):
        self.kept = []

    def before_train(self, runner):
        self.kept.append(copy.deepcopy(runner.model.backbone))

    def after_train_epoch(self, runner):
        self.kept.append(copy.deepcopy(runner.model.backbone))


@pytest.mark.parametrize('toolbox, kind', [
    ('mmpretrain', 'UniversalVisualizer'), ('mmdet', 'DetLocalVisualizer'), ('mmseg', 'SegLocalVisualizer')])
def test_pictures_and_scalars_arrive(tmp_path, toolbox, kind):
    pytest.importorskip(toolbox)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    run = Runner(
        model=dict(type='ReachModel'),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            batch_size=2, num_workers=0, dataset=[dict(image=image) for image in torch.rand(4, 3, 28, 20)],
            collate_fn=dict(type='default_collate'), sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=EPOCHS),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.02)),
        visualizer=dict(type=kind, vis_backends=[dict(type='TensorboardVisBackend'), dict(type='LocalVisBackend')]),
        default_hooks=dict(checkpoint=None),
        custom_hooks=[dict(type='PerViTNonlocalityHook'), dict(type='PerViTPositionMapHook', interval=3, query=(1, 4))],
        default_scope=toolbox, randomness=dict(seed=0), log_level='WARNING', experiment_name=f'visualizer-{toolbox}')
    snapshots = Snapshots()
    run.register_hook(snapshots, 'VERY_HIGH')
    run.train()
    assert type(run.visualizer) is VISUALIZERS.get(f'{toolbox}.{kind}')

    reach = [[v.mean().item() for v in position_nonlocality(backbone)] for backbone in snapshots.kept]
    assert len(reach) == EPOCHS + 1
    for earlier, later in zip(reach, reach[1:]):
        assert max(abs(b / a - 1) for a, b in zip(earlier, later)) > 1e-3, 'training moves them'
    pictures = {step: draw_position_maps(snapshots.kept[step], (1, 4)) for step in (0, EPOCHS)}
    assert (pictures[0] != pictures[EPOCHS]).any()

    # TensorBoard's own reader.
    folder, = tmp_path.rglob('vis_data')
    events = EventAccumulator(str(folder), size_guidance=dict(images=0, scalars=0))
    events.Reload()
    for i in range(BLOCKS):
        scalars = events.Scalars(f'nonlocality/block{i}')
        assert [event.step for event in scalars] == list(range(EPOCHS + 1))
        assert [event.value for event in scalars] == pytest.approx([values[i] for values in reach], rel=1e-5)
    images = events.Images('position_map')
    assert [event.step for event in images] == [0, EPOCHS]
    for event in images:
        decoded = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(decoded, pictures[event.step])

    # The local backend.
    lines = [json.loads(line) for line in (folder / 'scalars.json').read_text().splitlines()]
    lines = [line for line in lines if 'nonlocality/block0' in line]
    assert [line['step'] for line in lines] == list(range(EPOCHS + 1))
    for line in lines:
        assert [line[f'nonlocality/block{i}'] for i in range(BLOCKS)] == pytest.approx(reach[line['step']], rel=1e-5)
    assert sorted(p.name for p in folder.rglob('*.png')) == [f'position_map_{step}.png' for step in pictures]
    for step, picture in pictures.items():
        drawn = cv2.imread(str(folder / 'vis_image' / f'position_map_{step}.png'))[..., ::-1]
        np.testing.assert_array_equal(drawn, picture)
