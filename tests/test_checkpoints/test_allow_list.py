"""MMEngine's checkpoints load under weights_only=True, and a run resumes from them."""
import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from crafted import rewrite
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint

from pervit_mm.checkpoints import allow_list
from pervit_mm.checkpoints.allow_list import CheckpointArray, allow_checkpoint_types

needs_list = pytest.mark.skipif(
    not allow_checkpoint_types(), reason='this PyTorch loads without a list of allowed types')
pytestmark = pytest.mark.usefixtures('one_thread')
EPOCHS, BATCHES = 3, 4


# ----------------------------------------------------------------- train and resume


@DATASETS.register_module(force=True)
class LoadingNumbers(BaseDataset):
    """Vectors, with the metainfo of a toolbox's own data set."""

    def __init__(self, scope, **kwargs):
        # The metainfo is not in the config, because MMEngine formats the config at every checkpoint. With 80 classes
        # that is slow.
        super().__init__(metainfo=metainfo(scope), **kwargs)

    def load_data_list(self):
        rng = np.random.default_rng(0)
        return [dict(inputs=torch.tensor(rng.standard_normal(5), dtype=torch.float32))
                for _ in range(2 * BATCHES)]


@MODELS.register_module(force=True)
class LoadingModel(BaseModel):
    """A linear layer that reports a loss and, for validation, its weights' mean."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(5, 1)

    def forward(self, inputs, sample_idx=None, mode='tensor'):
        out = self.linear(torch.stack(inputs))
        if mode == 'loss':
            return dict(loss=(out - 1).square().mean())
        return [dict(mean=self.linear.weight.mean().item()) for _ in inputs]


@METRICS.register_module(force=True)
class LoadingMetric(BaseMetric):
    """Returns a numpy number, as metrics of the toolboxes do. The number ends up in the message hub."""

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(mean=np.float64(np.mean([result['mean'] for result in results])))


@HOOKS.register_module(force=True)
class LoadingRecorder(Hook):
    """Records the values that must be the same after a resume."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.seen = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        hub = runner.message_hub
        self.seen[runner.iter] = (
            outputs['loss'].item(), runner.optim_wrapper.get_lr()['lr'][0],
            runner.optim_wrapper.get_momentum()['momentum'][0],
            hub.get_scalar('train/loss').data[0].tolist(),
            hub.get_scalar('train/loss').mean(window_size=6),
            {name: hub.get_scalar('train/loss').statistics(name)
             for name in allow_list.STATISTICS})

    def after_train_epoch(self, runner):
        self.seen[f'weights {runner.epoch}'] = {
            name: value.tolist() for name, value in runner.model.state_dict().items()}

    def after_val_epoch(self, runner, metrics=None):
        # With EMA these are the metrics of the averaged weights.
        self.seen[f'metric {runner.epoch}'] = metrics


def metainfo(scope):
    """Metainfo of the toolbox's own data set."""
    if scope == 'mmpretrain':
        pytest.importorskip('mmpretrain')
        from mmpretrain.datasets import FashionMNIST
        return FashionMNIST.METAINFO
    name = dict(mmdet='CocoDataset', mmseg='ADE20KDataset')[scope]
    pytest.importorskip(scope)
    pytest.importorskip('mmcv.ops', reason='needs mmcv with compiled ops', exc_type=ImportError)
    if scope == 'mmdet':
        from mmdet.utils import register_all_modules
    else:
        from mmseg.utils import register_all_modules
    register_all_modules(init_default_scope=False)
    return DATASETS.get(f'{scope}.{name}').METAINFO


def make_cfg(scope, work_dir, ema=False, by_epoch=True, **extra):
    """A run in a toolbox's scope, with the toolbox's own model and transforms if these are cheap."""
    if scope == 'mmpretrain':
        model = dict(
            type='ImageClassifier',
            backbone=dict(
                type='VisionTransformer', img_size=8, patch_size=4, with_cls_token=False,
                out_type='avg_featmap',
                arch=dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=8)),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=8, cal_acc=True),
            data_preprocessor=dict(mean=[0.] * 3, std=[255.] * 3, num_classes=10))
    else:
        model = dict(type='LoadingModel')
    data = dict(type='LoadingNumbers', scope=scope, serialize_data=False, pipeline=[])
    if scope == 'mmpretrain':
        data.update(type='LoadingImages', pipeline=[dict(type='PackInputs')])
    loader = dict(batch_size=2, num_workers=0, dataset=data)
    infinite = 'DefaultSampler' if by_epoch else 'InfiniteSampler'
    iterations = EPOCHS * BATCHES
    hooks = [dict(type='LoadingRecorder')]
    if ema:
        hooks.append(dict(type='EMAHook', momentum=0.1))
    return Config(dict(
        default_scope=scope, model=model, custom_hooks=hooks,
        train_dataloader=dict(loader, sampler=dict(type=infinite, shuffle=True)),
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=EPOCHS) if by_epoch else
        dict(by_epoch=False, max_iters=iterations, val_interval=BATCHES),
        val_cfg=dict(), val_evaluator=dict(type='LoadingMetric'),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.05)),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=5),
            dict(type='CosineAnnealingLR', by_epoch=False, begin=5, end=iterations),
            dict(type='LinearMomentum', start_factor=0.9, by_epoch=False, begin=0, end=iterations)],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=2),
            checkpoint=dict(type='CheckpointHook', interval=1 if by_epoch else BATCHES,
                            by_epoch=by_epoch, save_best='mean', rule='greater')),
        log_processor=dict(window_size=3, by_epoch=by_epoch, custom_cfg=[
            dict(data_src='loss', method_name='mean', log_name='long', window_size='global')]),
        randomness=dict(seed=0), log_level='ERROR', work_dir=str(work_dir),
        experiment_name=f'loading-{len(MessageHub._instance_dict)}', **extra))


@DATASETS.register_module(force=True)
class LoadingImages(LoadingNumbers):
    """Small images for MMPretrain's pipeline."""

    def load_data_list(self):
        pixels = np.random.default_rng(0).integers(0, 256, (2 * BATCHES, 8, 8, 3), np.uint8)
        return [dict(img=image, gt_label=i % 3) for i, image in enumerate(pixels)]


@METRICS.register_module(force=True)
class LoadingScores(LoadingMetric):
    """The metric for a classifier's predictions."""

    def process(self, data_batch, data_samples):
        self.results += [dict(mean=sample['pred_score'][0].item()) for sample in data_samples]


def train(cfg):
    if cfg.default_scope == 'mmpretrain':
        cfg.val_evaluator.type = 'LoadingScores'
    runner = Runner.from_cfg(cfg)
    runner.train()
    return next(hook for hook in runner.hooks if isinstance(hook, LoadingRecorder)).seen


@needs_list
@pytest.mark.parametrize('scope, by_epoch', [
    ('mmpretrain', True), ('mmpretrain', False), ('mmdet', True), ('mmseg', False)])
@pytest.mark.parametrize('ema', [False, True])
def test_a_resumed_run_repeats_the_undisturbed_one_in_every_toolbox(tmp_path, monkeypatch, scope, by_epoch, ema):
    texts = []
    monkeypatch.setattr(MMLogger, 'warning', lambda self, text, *args, **kwargs: texts.append(text))
    whole = train(make_cfg(scope, tmp_path / 'a', ema, by_epoch))
    name = 'epoch_2.pth' if by_epoch else f'iter_{2 * BATCHES}.pth'
    # The file does hold types that need the list.
    path = tmp_path / 'a' / name
    meta = torch.load(path)['meta']
    assert meta['dataset_meta'] == metainfo(scope)
    assert any('HistoryBuffer' in item for item in names_in(path))
    assert {'builtins.getattr', 'numpy.ndarray', 'numpy.dtype'} <= names_in(path)
    assert any(item.endswith('multiarray.scalar') for item in names_in(path))
    assert ('ema_state_dict' in torch.load(path)) == ema
    texts.clear()
    resumed = train(
        make_cfg(scope, tmp_path / 'b', ema, by_epoch, load_from=str(path), resume=True))
    start = 2 * BATCHES
    assert sorted(key for key in resumed if isinstance(key, int)) == list(
        range(start, EPOCHS * BATCHES))
    assert f'metric {EPOCHS}' in resumed or not by_epoch
    assert resumed == {key: whole[key] for key in resumed}
    assert not [text for text in texts if 'metainfo' in text]


def names_in(path):
    """Every global that a checkpoint names."""
    with zipfile.ZipFile(path) as archive:
        record, = [name for name in archive.namelist() if name.endswith('data.pkl')]
        from torch._weights_only_unpickler import get_globals_in_pkl
        return get_globals_in_pkl(io.BytesIO(archive.read(record)))


# ----------------------------------------------------------------- what loads, exactly


def roundtrip(value, tmp_path, rename=None):
    """Save and load a value as MMEngine does."""
    path = tmp_path / 'value.pth'
    torch.save(value, path)
    if rename:
        rewrite(path, lambda data: data.replace(*rename))
    return _load_checkpoint(str(path))


ARRAYS = [
    np.arange(6.).reshape(2, 3), np.asfortranarray(np.arange(6, dtype='i2').reshape(2, 3)),
    np.arange(5, dtype='>i4'), np.array([1.5, -2], '<f2'), np.array([True, False]),
    np.array([1 + 2j]), np.array(['a', 'bcd']), np.array([b'xy', b'z']), np.zeros((0, 3)),
    np.array(3, 'u8'), np.arange(3000.)]
SCALARS = [np.float64(0.1), np.float32(-1), np.float16(2), np.int64(-3), np.uint8(200),
           np.bool_(True), np.complex128(1j), np.str_('top1'), np.str_(''), np.bytes_(b'ab')]


@needs_list
@pytest.mark.parametrize('array', ARRAYS, ids=lambda array: f'{array.dtype.str}-{array.shape}')
def test_arrays_load_unchanged(tmp_path, array):
    loaded = roundtrip(dict(array=array), tmp_path)['array']
    np.testing.assert_array_equal(loaded, array)
    assert loaded.shape == array.shape and loaded.dtype.kind == array.dtype.kind
    assert loaded.flags.f_contiguous == array.flags.f_contiguous
    assert isinstance(loaded, CheckpointArray)
    # When it is saved again it is a plain array, so the new file doesn't need pervit_mm.
    again = pickle.loads(pickle.dumps(loaded))
    assert type(again) is np.ndarray
    np.testing.assert_array_equal(again, array)


@needs_list
@pytest.mark.parametrize('scalar', SCALARS, ids=repr)
def test_scalars_load_unchanged(tmp_path, scalar):
    loaded = roundtrip(dict(scalar=scalar), tmp_path)['scalar']
    assert type(loaded) is type(scalar) and loaded == scalar


@needs_list
def test_files_of_numpy_1_and_2_load(tmp_path):
    value = dict(array=np.arange(3.), scalar=np.float64(2))
    for rename in [(b'numpy._core', b'numpy.core'), (b'numpy.core', b'numpy._core')]:
        loaded = roundtrip(value, tmp_path, rename)
        assert f'{rename[1].decode()}.multiarray.scalar' in names_in(tmp_path / 'value.pth')
        assert loaded['array'].tolist() == [0, 1, 2] and loaded['scalar'] == 2


@needs_list
def test_history_buffers_load_unchanged(tmp_path):
    buffer = HistoryBuffer(max_length=7)
    for i in range(9):
        buffer.update(i / 3, i + 1)
    table = dict(HistoryBuffer._statistics_methods)
    loaded = roundtrip(dict(buffer=buffer), tmp_path)['buffer']
    assert type(loaded) is HistoryBuffer and loaded.max_length == 7
    assert [type(part) for part in loaded.data] == [np.ndarray] * 2
    for copy in (loaded, roundtrip(dict(buffer=loaded), tmp_path)['buffer']):
        assert [part.tolist() for part in copy.data] == [part.tolist() for part in buffer.data]
        assert copy.mean(3) == buffer.mean(3) and copy.max() == buffer.max()
        copy.update(5.)
        assert copy.current() == 5
    empty = roundtrip(dict(buffer=HistoryBuffer()), tmp_path)['buffer']
    assert [len(part) for part in empty.data] == [0, 0]
    assert HistoryBuffer._statistics_methods == table


@needs_list
def test_calling_it_again_changes_nothing():
    before = set(torch.serialization.get_safe_globals())
    assert allow_checkpoint_types()
    assert set(torch.serialization.get_safe_globals()) == before
    names = {item[1] for item in before if isinstance(item, tuple)}
    assert {'mmengine.logging.history_buffer.HistoryBuffer', 'builtins.getattr', 'builtins.bytes', 'numpy.dtype',
            'numpy.ndarray', *(f'numpy.{core}.multiarray.{name}' for core in ('core', '_core')
                               for name in ('_reconstruct', 'scalar'))} <= names
    # None of the real objects is on the list.
    assert not {getattr, np.ndarray, np.dtype} & {
        item[0] if isinstance(item, tuple) else item for item in before}


@pytest.mark.parametrize('version', ['1.13.1', '2.3.0', '2.5.1+cpu'])
def test_older_torch_is_left_alone(monkeypatch, version):
    monkeypatch.setattr(torch, '__version__', version)
    monkeypatch.setattr(torch.serialization, 'add_safe_globals',
                        lambda items: pytest.fail('must not be called'))
    assert allow_checkpoint_types() is False
