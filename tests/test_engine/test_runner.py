"""Which checkpoints the runner loads, and which it refuses."""
import multiprocessing
from time import sleep

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint
from toy_run import ToyModel, samples, toy_runner

from pervit_mm.checkpoints import read_checkpoint
from pervit_mm.checkpoints.taking import take_weights
from pervit_mm.engine.runner import PerViTRunner
from pervit_mm.engine.work_dir_lock import alone_in
from pervit_mm.utils.errors import UserError


@pytest.fixture
def trained(tmp_path):
    """A folder with a run of two epochs."""
    toy_runner(tmp_path / 'run', epochs=2).train()
    return tmp_path / 'run'


def change(path, **changes):
    content = torch.load(path, weights_only=True)
    for key, value in changes.items():
        content[key] = value(content[key]) if callable(value) else value
    torch.save(content, path)


@pytest.mark.parametrize('marker', ['config', 'cfg'])
def test_no_text_of_a_checkpoint_is_run_on_resume(trained, tmp_path, marker):
    code = f"open({str(tmp_path / 'executed')!r}, 'w').close()"
    change(trained / 'epoch_2.pth', meta=lambda meta: {**meta, marker: code})
    toy_runner(trained, epochs=3, resume=True).train()
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize('change_state, message', [
    (lambda s: {f'other.{k}': v for k, v in s.items()}, 'no weight of ToyModel is in'),
    (lambda s: {'linear.weight': s['linear.weight']}, 'holds the weights of another model: linear.bias is not in it'),
    (lambda s: {**s, 'head.weight': torch.ones(1)}, 'another model: head.weight is not of this model'),
    (lambda s: {**s, 'linear.bias': torch.ones(7)}, r'another model: linear.bias is \(7,\) there and \(3,\) here')])
@pytest.mark.parametrize('how', ['resume', 'test'])
def test_weights_of_another_model_are_refused(trained, change_state, message, how):
    change(trained / 'epoch_2.pth', state_dict=change_state)
    if how == 'resume':
        run = toy_runner(trained, epochs=3, resume=True)
        start = run.train
    else:
        run = toy_runner(trained, epochs=3, scores=[1.], load_from=str(trained / 'epoch_2.pth'))
        start = run.val
    with pytest.raises(UserError, match=message):
        start()
    assert run.iter == 0


def test_load_from_reports_and_takes_what_fits(trained, monkeypatch):
    lines = []
    run = toy_runner(trained.parent / 'other', epochs=1, width=5, load_from=str(trained / 'epoch_2.pth'))
    monkeypatch.setattr(run.logger, 'info', lines.append)
    with pytest.raises(UserError, match='no weight of ToyModel'):
        run.load_or_resume()  # nothing fits another width
    change(trained / 'epoch_2.pth', state_dict=lambda s: {**s, 'extra': torch.ones(1)})
    run = toy_runner(trained.parent / 'third', epochs=1, load_from=str(trained / 'epoch_2.pth'))
    monkeypatch.setattr(run.logger, 'info', lines.append)
    run.load_or_resume()
    assert any('ToyModel: 2 of 2 tensors loaded from' in line and 'unexpected there, not used: extra' in line
               for line in lines)


def test_nothing_to_train_is_said(trained):
    with pytest.raises(UserError, match=r"--resume: '.*epoch_2.pth' has 2 behind it and train_cfg.max_epochs is 2, so "
                       'there is nothing to train: raise train_cfg.max_epochs'):
        toy_runner(trained, epochs=2, resume=True).train()


def test_a_file_of_weights_alone_is_no_run_to_resume(trained):
    torch.save(dict(state_dict=ToyModel().state_dict()), trained / 'weights.pth')
    with pytest.raises(UserError, match='holds weights and no state of a run .* start from it by load_from'):
        toy_runner(trained, resume=True, load_from=str(trained / 'weights.pth')).train()


def test_another_optimizer_is_named(trained):
    change(trained / 'epoch_2.pth', optimizer=lambda o: {**o, 'param_groups': o['param_groups'] * 2})
    with pytest.raises(UserError, match='the optimizer of .*epoch_2.pth. is not that of this config .*load_from'):
        toy_runner(trained, epochs=3, resume=True).train()


@pytest.mark.parametrize('batch_size, warned', [(4, False), (2, True)])
def test_epochs_of_another_length_are_told_on_resume(trained, monkeypatch, batch_size, warned):
    loader = dict(batch_size=batch_size, num_workers=0, dataset=samples(), collate_fn=dict(type='default_collate'),
                  sampler=dict(type='DefaultSampler', shuffle=True))
    run = toy_runner(trained, epochs=3, resume=True, train_dataloader=loader)
    lines = []
    monkeypatch.setattr(run.logger, 'warning', lines.append)
    run.train()
    found = [line for line in lines if 'had 6 iterations, and would have 12 here' in line]
    assert len(found) == warned and run.epoch == 3


def test_averages_start_from_a_state_dict_alone(tmp_path):
    """MMEngine's EMAHook looks for an entry of a checkpoint, which a bare state dict does not have."""
    state = {key: torch.full_like(value, 7.) for key, value in ToyModel().state_dict().items()}
    torch.save(state, tmp_path / 'state.pth')
    toy_runner(tmp_path / 'run', epochs=1, load_from=str(tmp_path / 'state.pth'), hooks=[dict(type='EMAHook')],
               optimizer=dict(type='SGD', lr=0.)).train()
    averages = torch.load(tmp_path / 'run' / 'epoch_1.pth', weights_only=False)['state_dict']
    assert all(torch.equal(value, state[key]) for key, value in averages.items())


def test_resume_without_a_path_takes_the_newest_whole_checkpoint(trained):
    content = (trained / 'epoch_2.pth').read_bytes()
    (trained / 'epoch_2.pth').write_bytes(content[:len(content) // 2])
    run = toy_runner(trained, epochs=3, resume=True)
    run.train()
    assert run.epoch == 3 and (trained / 'last_checkpoint').read_text().endswith('epoch_3.pth')


def test_a_hostile_file_is_refused_on_resume(trained):
    class Evil:
        def __reduce__(self):
            return print, ('executed', )

    torch.save(dict(meta=Evil()), trained / 'evil.pth')
    message = 'evil.pth. was refused and nothing of it was executed: it asks for print'
    with pytest.raises(UserError, match=message) as stop:
        toy_runner(trained, resume=True, load_from=str(trained / 'evil.pth')).train()
    assert 'weights_only' not in str(stop.value), "PyTorch's advice"


def test_a_second_training_in_the_same_folder_is_refused(tmp_path):
    with alone_in(str(tmp_path)):
        with pytest.raises(UserError, match='another training runs in .*--work-dir of its own'):
            toy_runner(tmp_path).train()
    toy_runner(tmp_path, epochs=1).train()


@pytest.mark.parametrize('strict', [False, True])
def test_models_of_the_toolboxes_resize_their_weights_as_they_do_elsewhere(strict, tmp_path):
    """MMPretrain's transformer interpolates its position embeddings when it loads."""
    backbones = pytest.importorskip('mmpretrain.models.backbones')
    small, large, other = (
        backbones.VisionTransformer(dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=8),
                                    img_size=size, patch_size=16) for size in (32, 48, 48))
    for model in (small, large):
        torch.nn.init.normal_(model.pos_embed)
    torch.save(small.state_dict(), tmp_path / 'small.pth')
    load_checkpoint(other, str(tmp_path / 'small.pth'), logger='silent')  # MMEngine's own
    take_weights(large, small.state_dict(), 'small.pth', strict, MMLogger.get_current_instance())
    assert torch.equal(large.pos_embed, other.pos_embed) and large.pos_embed.shape == (1, 10, 8)


def test_a_model_whose_weights_all_have_another_shape_gets_none():
    with pytest.raises(UserError, match='no weight of Linear is in .other.pth., whose names begin with bias, weight'):
        take_weights(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4).state_dict(), 'other.pth', False,
                     MMLogger.get_current_instance())


def test_a_worker_that_lives_on_does_not_hold_the_folder(tmp_path):
    """A forked data worker has the same open folder."""
    context = multiprocessing.get_context('fork')
    with alone_in(str(tmp_path)):
        worker = context.Process(target=sleep, args=(60, ), daemon=True)
        worker.start()
    try:
        with alone_in(str(tmp_path)):
            assert worker.is_alive()
    finally:
        worker.kill()
        worker.join()


def test_resuming_finds_checkpoints_in_the_folder_of_the_hook(tmp_path):
    elsewhere = dict(interval=1, out_dir=str(tmp_path / 'elsewhere'))
    toy_runner(tmp_path / 'run', epochs=1, checkpoint=elsewhere).train()
    assert (tmp_path / 'elsewhere' / 'run' / 'epoch_1.pth').is_file()
    run = toy_runner(tmp_path / 'run', epochs=2, checkpoint=elsewhere, resume=True)
    run.train()
    assert run._load_from.endswith('epoch_1.pth') and run.epoch == 2


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path):
    import zipfile
    path = tmp_path / 'file.pth'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', b'\x80\x02cos\x1b[31m\nsystem\n.')
        archive.writestr('archive/version', '3')
    with pytest.raises(UserError) as stop:
        read_checkpoint(path)
    assert '\x1b' not in str(stop.value)


def test_without_workers_their_settings_are_dropped():
    """The loaders for ImageNet have both. torch makes an error of them in a loader without workers."""
    settings = dict(batch_size=2, dataset=list(range(4)), sampler=dict(type='DefaultSampler', shuffle=False),
                    persistent_workers=True, prefetch_factor=4)
    assert [list(batch) for batch in PerViTRunner.build_dataloader(dict(settings, num_workers=0))] == [[0, 1], [2, 3]]
    loader = PerViTRunner.build_dataloader(dict(settings, num_workers=1))
    assert (loader.persistent_workers, loader.prefetch_factor) == (True, 4)


@pytest.mark.parametrize('env_cfg, allowed', [({}, False), (dict(cudnn_attention=True), True)])
def test_attention_by_cudnn_is_left_out_unless_the_config_allows_it(tmp_path, request, env_cfg, allowed):
    before = torch.backends.cuda.cudnn_sdp_enabled()
    request.addfinalizer(lambda: torch.backends.cuda.enable_cudnn_sdp(before))
    torch.backends.cuda.enable_cudnn_sdp(not allowed)
    toy_runner(tmp_path, env_cfg=env_cfg)
    assert torch.backends.cuda.cudnn_sdp_enabled() is allowed
