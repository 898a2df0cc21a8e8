"""One config on machines with and without a GPU."""
import pytest
from small_run import prepare

from pervit_mm.engine import launch, machine
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')


def test_a_config_for_gpus_is_fitted_to_the_cpu(small, monkeypatch):
    monkeypatch.setattr(machine, 'has_accelerator', lambda: False)
    notes = prepare(small, launcher='pytorch')
    assert len(notes) == 2
    assert small.optim_wrapper.type == 'OptimWrapper'
    assert not {'loss_scale', 'dtype'} & set(small.optim_wrapper)
    assert small.model_wrapper_cfg.device_ids is None
    assert small.train_dataloader.pin_memory is False
    for key in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(UserError, match='RANK.*torchrun'):
        launch.build_runner(small)
    small.launcher = 'slurm'
    with pytest.raises(UserError, match='slurm needs a GPU'):
        launch.build_runner(small)


@pytest.mark.parametrize('launcher, kinds', [('pytorch', ['BN', 'BN', 'LN']), ('none', ['SyncBN', 'SyncBN', 'LN'])])
def test_sync_bn_becomes_bn_in_several_cpu_processes(small, monkeypatch, launcher, kinds):
    """torch's SyncBN takes no CPU tensors. In a single process MMEngine itself turns it into BN."""
    monkeypatch.setattr(machine, 'has_accelerator', lambda: False)
    parts = [dict(norm_cfg=dict(type='SyncBN', requires_grad=True)), dict(norm_cfg=dict(type='LN'))]
    small.model = dict(type='A', backbone=dict(norm_cfg=dict(type='SyncBN')), heads=parts)
    notes = prepare(small, launcher=launcher)
    assert [part.norm_cfg.type for part in (small.model.backbone, *small.model.heads)] == kinds
    assert any('SyncBN' in note for note in notes) is (launcher == 'pytorch')
    assert small.model.heads[0].norm_cfg.requires_grad is True


def test_sync_bn_becomes_bn_in_testing_without_a_note(small, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, 'has_accelerator', lambda: False)
    small.model = dict(type='A', backbone=dict(norm_cfg=dict(type='SyncBN')))
    (tmp_path / 'a.pth').touch()
    notes = launch.prepare_test_config(small, 'configs/small.py', str(tmp_path / 'a.pth'), launcher='pytorch')
    assert small.model.backbone.norm_cfg.type == 'BN'
    assert not any('SyncBN' in note for note in notes), 'statistics are those of training'
