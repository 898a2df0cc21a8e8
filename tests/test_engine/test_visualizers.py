"""The hooks around Φp write through each toolbox's own visualizer into TensorBoard's files and local files."""
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

BLOCKS = 3


@MODELS.register_module(force=True)
class ReachModel(BaseModel):
    """A PerViT without a task, so that it works in the scope of every toolbox."""

    def __init__(self):
        super().__init__()
        self.backbone = PerViT(TINY_ARCH, img_size=(28, 20))

    def forward(self, image, mode='tensor'):
        return dict(loss=self.backbone(image)[-1].softmax(1)[:, 0].mean())


class Snapshots(Hook):
    """Copies of the backbone at the start and after each iteration."""

    def __init__(self):
        self.kept = []

    def before_train(self, runner):
        self.kept.append(copy.deepcopy(runner.model.backbone))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.kept.append(copy.deepcopy(runner.model.backbone))


@pytest.mark.parametrize('toolbox, kind, by_epoch', [
    ('mmpretrain', 'UniversalVisualizer', True), ('mmdet', 'DetLocalVisualizer', True),
    ('mmseg', 'SegLocalVisualizer', False)])
def test_pictures_and_scalars_arrive_in_every_backend(tmp_path, toolbox, kind, by_epoch):
    """Six iterations, two for each epoch. Scalars come after every second iteration, pictures before and after all."""
    pytest.importorskip(toolbox)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    unit = 1 if by_epoch else 2  # steps for every two iterations
    run = Runner(
        model=dict(type='ReachModel'),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            batch_size=2, num_workers=0, dataset=[dict(image=image) for image in torch.rand(4, 3, 28, 20)],
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=3) if by_epoch else dict(by_epoch=False, max_iters=6),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.02)),
        visualizer=dict(type=kind, vis_backends=[dict(type='TensorboardVisBackend'), dict(type='LocalVisBackend')]),
        default_hooks=dict(checkpoint=None), log_processor=dict(by_epoch=by_epoch),
        custom_hooks=[
            dict(type='PerViTNonlocalityHook', interval=unit, by_epoch=by_epoch),
            dict(type='PerViTPositionMapHook', interval=3 * unit, by_epoch=by_epoch, query=(1, 4))],
        default_scope=toolbox, randomness=dict(seed=0), log_level='WARNING', experiment_name=f'visualizer-{toolbox}')
    snapshots = Snapshots()
    run.register_hook(snapshots, 'VERY_HIGH')
    run.train()
    assert type(run.visualizer) is VISUALIZERS.get(f'{toolbox}.{kind}')

    assert len(snapshots.kept) == 7
    reach = {i * unit: [v.mean().item() for v in position_nonlocality(backbone)]
             for i, backbone in enumerate(snapshots.kept[::2])}
    values = list(reach.values())
    for earlier, later in zip(values, values[1:]):
        assert max(abs(b / a - 1) for a, b in zip(earlier, later)) > 1e-3, 'training moves them'
    pictures = {step: draw_position_maps(snapshots.kept[i], (1, 4)) for step, i in ((0, 0), (3 * unit, 6))}
    assert (pictures[0] != pictures[3 * unit]).any()

    # TensorBoard's own reader.
    folder, = tmp_path.rglob('vis_data')
    events = EventAccumulator(str(folder), size_guidance=dict(images=0, scalars=0))
    events.Reload()
    for i in range(BLOCKS):
        scalars = events.Scalars(f'nonlocality/block{i}')
        assert [event.step for event in scalars] == list(reach)
        assert [event.value for event in scalars] == pytest.approx([v[i] for v in values], rel=1e-5)
    images = events.Images('position_map')
    assert [event.step for event in images] == list(pictures)
    for event in images:
        decoded = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(decoded, pictures[event.step])

    # The local backend.
    lines = [json.loads(line) for line in (folder / 'scalars.json').read_text().splitlines()]
    lines = [line for line in lines if 'nonlocality/block0' in line]
    assert [line['step'] for line in lines] == list(reach)
    for line in lines:
        assert [line[f'nonlocality/block{i}'] for i in range(BLOCKS)] == pytest.approx(reach[line['step']], rel=1e-5)
    assert sorted(p.name for p in folder.rglob('*.png')) == [f'position_map_{step}.png' for step in pictures]
    for step, picture in pictures.items():
        drawn = cv2.imread(str(folder / 'vis_image' / f'position_map_{step}.png'))[..., ::-1]
        np.testing.assert_array_equal(drawn, picture)
