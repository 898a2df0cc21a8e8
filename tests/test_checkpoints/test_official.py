"""Files of the authors' code: what is read, what is refused, and how the weights are converted."""
import argparse
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import official_keys, official_state
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from pervit_mm.checkpoints.files import read_classifier
from pervit_mm.checkpoints.official import (
    convert_official,
    count_parameters,
    from_official,
    key_pairs,
    read_official,
    recognize_size,
    revert_to_official,
)
from pervit_mm.engine import allow_checkpoint_types
from pervit_mm.models import PerViT
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.fixture(scope='module')
def tiny():
    """The weights of the reference run. They are shared, so no test may change them."""
    return official_state('tiny')


def blank_state(size):
    """An official state dict of any size, cheap to make: each tensor is filled with its index."""
    return {key: torch.full(shape, float(i)) for i, (key, shape) in enumerate(official_keys(size).items())}


def with_classes(state, classes):
    width = state['head.weight'].shape[1]
    return {**state, 'head.weight': torch.randn(classes, width), 'head.bias': torch.randn(classes)}


def same(one, other):
    """Equal keys, dtypes and bits."""
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize('size, parameters', [('tiny', 7591000), ('small', 21317672), ('medium', 43723936)])
def test_every_size_converts_there_and_back(size, parameters):
    """Equal key sets, equal shapes, a strict load into the model of the config, and the conversion back."""
    official = blank_state(size)
    assert recognize_size(official) == size
    state, meta = convert_official(official)
    assert (meta['size'], meta['num_classes'], meta['dropped']) == (size, 1000, [])
    assert count_parameters(state) == count_parameters(official) == parameters
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device('meta'):
        model = MODELS.build(Config.fromfile(CONFIGS / f'pervit_{size}.py').model)
    assert state.keys() == model.state_dict().keys() == {ours for _, ours in key_pairs()}
    assert all(state[key].shape == value.shape for key, value in model.state_dict().items())
    model.load_state_dict(state, strict=True, assign=True)
    back, meta = revert_to_official(model.state_dict())
    assert meta == dict(size=size, num_classes=1000) and same(back, official)
    assert recognize_size(state) == size, 'in our layout, too'


def test_converted_tensors_are_plain_and_own_their_memory(tiny):
    """Also if the source has parameters, views or half precision."""
    store = torch.zeros(1000, 1000)
    state = {**tiny, 'norm.weight': nn.Parameter(tiny['norm.weight'].half()), 'head.weight': store[:, :280]}
    converted, _ = convert_official(state)
    assert all(type(value) is torch.Tensor and not value.requires_grad for value in converted.values())
    assert converted['backbone.norm11.weight'].dtype == torch.float16
    weight = converted['head.fc.weight']
    assert weight.is_contiguous() and weight.untyped_storage().nbytes() == weight.numel() * 4
    assert same({'': weight}, {'': store[:, :280]}) and weight.data_ptr() != store.data_ptr()


@pytest.mark.parametrize('classes', [1, 10, 1203])
def test_other_class_counts_convert_there_and_back(tiny, classes):
    official = with_classes(tiny, classes)
    state, meta = convert_official(official)
    assert meta['num_classes'] == classes and same(state, from_official(official))
    assert same(revert_to_official(state)[0], official)
    backbone, meta = convert_official(official, backbone_only=True)
    assert (meta['num_classes'], meta['dropped']) == (classes, ['head.fc.weight', 'head.fc.bias'])
    assert all(key.startswith('backbone.') for key in backbone) and len(backbone) == len(official) - 2
    with pytest.raises(ValueError, match=r"unknown keys none, missing keys \['head.fc.bias', 'head.fc.weight'\]"):
        revert_to_official(backbone)


@pytest.mark.parametrize('change, message', [
    ({'blocks.3.extra': 1, 'blocks.11.extra': 1},
     r"authors' key layout: unknown keys \['blocks.3.extra', 'blocks.11.extra'\], missing keys none"),
    ({'norm.weight': None, 'blocks.2.mlp.fc1.bias': None},
     r"unknown keys none, missing keys \['blocks.2.mlp.fc1.bias', 'norm.weight'\]"),
    ({'rpe_proj.weight': (32, 1), 'blocks.1.mlp.fc1.weight': (512, 192)},
     r'the stages of PerViT tiny, but other shapes: rpe_proj.weight is \(32, 1\) and must be \(16, 1\); '
     r'blocks.1.mlp.fc1.weight is \(512, 192\) and must be \(512, 128\)$'),
    ({f'blocks.{i}.attn.proj.bias': (1, ) for i in range(12)}, r'blocks.4.attn.proj.bias is .* and 7 more$'),
    ({'head.weight': (10, 280)}, r'head.bias is \(1000,\) and must be \(10,\)$'),
    ({'head.weight': (10, 464), 'head.bias': (10, )}, r'head.weight is \(10, 464\) and must be \(10, 280\)$'),
    ({'head.weight': (0, 280), 'head.bias': (0, )}, r'head.weight is \(0, 280\) and must be \(1000, 280\)'),
    ({'head.weight': ()}, r'head.weight is \(\) and must be \(1000, 280\)'),
    ({'blocks.4.norm1.weight': (384, )},
     r'is not PerViT tiny \(128, 192, 224, 280\), small .*: .*blocks.2.norm1.weight is \(192,\), '
     r'blocks.4.norm1.weight is \(384,\), .*; its 294 keys begin with blocks \(258\), conv_layers'),
])
def test_mistakes_are_named(tiny, change, message):
    """``change`` maps a key to its new shape, to None if it is removed, or to 1 if it is added."""
    state = {key: value for key, value in tiny.items() if change.get(key, 1) is not None}
    state.update({key: torch.zeros(shape) for key, shape in change.items() if shape is not None})
    with pytest.raises(ValueError, match=message):
        convert_official(state)


def test_a_path_in_place_of_a_state_dict_is_named():
    with pytest.raises(TypeError, match="^state_dict must be a dict of tensors, the entry 'model' of .*, got str$"):
        from_official('perivit_tiny.pth')


def test_mistakes_on_the_way_back_are_named_by_our_keys(tiny):
    ours, _ = convert_official(tiny)
    with pytest.raises(ValueError, match=r'backbone.blocks.7.cpe.conv.bias is \(3,\) and must be \(224,\)$'):
        revert_to_official({**ours, 'backbone.blocks.7.cpe.conv.bias': torch.zeros(3)})
    with pytest.raises(ValueError, match=r"pervit_mm's key layout: unknown keys \['neck.conv.weight'\], missing "):
        revert_to_official({**ours, 'neck.conv.weight': torch.zeros(3)})
    nano = {f'backbone.{key}': value for key, value in PerViT('nano', img_size=28).state_dict().items()}
    with pytest.raises(ValueError, match=r'backbone.blocks.2.norm1.weight is \(80,\), .*blocks.10.norm1.weight is mis'):
        revert_to_official(nano)


@pytest.mark.parametrize('state', [
    {'norm.weight': [1., 2.]}, {'norm.weight': torch.eye(3).to_sparse()}, {'norm.weight': torch.ones(3, device='meta')},
    {0: torch.ones(3)}
], ids=['list', 'sparse', 'meta', 'number as name'])
def test_anything_but_dense_tensors_with_names_is_refused(tiny, state):
    with pytest.raises(UserError, match='state_dict must map names to dense tensors, got .*: (list|Tensor)'):
        convert_official({**tiny, **state})


def test_everything_that_training_files_hold_is_read(tmp_path, tiny):
    """The authors' own entries and those of forks, in both of PyTorch's file formats.

    PyTorch's list of allowed types is not changed by reading.
    """
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    args = argparse.Namespace(model='pervit_tiny', lr=5e-4, output_dir=Path('logs'), nested=argparse.Namespace(a=None))
    content = dict(
        model=OrderedDict(tiny), optimizer=optimizer.state_dict(), lr_scheduler=dict(base_values=[1e-3], warmup=True),
        epoch=299, model_ema=None, scaler=dict(scale=65536.), args=args)
    if allow_checkpoint_types():  # PyTorch 2.6 and later
        content.update(epoch=np.int64(299), best=np.float64(78.8))
        vars(args).update(device=torch.device('cuda'), dtype=torch.float16, seeds={0, 1})
    before = set(torch.serialization.get_safe_globals())
    for options in (dict(), dict(_use_new_zipfile_serialization=False)):
        torch.save(content, tmp_path / 'official.pth', **options)
        assert same(read_official(tmp_path / 'official.pth'), tiny)
    torch.save(tiny, tmp_path / 'bare.pth')
    assert same(read_official(str(tmp_path / 'bare.pth')), tiny)
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError, match='argparse.Namespace'):
        torch.load(tmp_path / 'official.pth', weights_only=True)


class Call:
    """Calls a function when unpickled by plain pickle."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def test_files_that_run_code_are_refused(tmp_path, tiny):
    marker, path = tmp_path / 'marker', tmp_path / 'crafted.pth'
    for function, args, name in ((os.system, (f'touch {marker}', ), f'{os.name}.system'),
                                 (exec, (f'open({str(marker)!r}, "w")', ), 'exec'),
                                 (open, (str(marker), 'w'), 'open')):
        evil = Call(function, *args)
        for content in (dict(model=tiny, args=evil), dict(model=tiny, args=argparse.Namespace(a=evil)), evil):
            torch.save(content, path)
            for reader in (read_official, read_classifier):
                with pytest.raises(ValueError, match='refused and nothing of it was executed: it asks for ') as error:
                    reader(path)
                assert name in str(error.value) and str(path) in str(error.value)
                assert 'weights_only' not in str(error.value), 'no advice to turn the protection off'
        path.write_bytes(pickle.dumps(evil, 2))
        with pytest.raises(ValueError, match='was refused and nothing of it was executed'):
            read_official(path)
        path.write_bytes(pickle.dumps(evil))  # a protocol that PyTorch's reader doesn't know
        with pytest.raises(ValueError, match='cannot be read as a PyTorch checkpoint .*nothing of it was executed'):
            read_official(path)
        assert not marker.exists()
    path.write_bytes(pickle.dumps(evil, 2))
    with open(path, 'rb') as file:
        pickle.load(file).close()
    assert marker.exists(), 'what plain pickle would have done'


@pytest.mark.parametrize('content, official, ours', [
    (dict(state_dict={'backbone.a': torch.ones(1)}, meta={}), "OpenMMLab's layout already", None),
    ({'backbone.a': torch.ones(1)}, 'nothing to convert; the way back is tools/model_converters/mm_to_pervit.py', None),
    (dict(model={'a': torch.ones(1)}), None, 'it holds a dict with model .1.; .*/model_converters/pervit_to_mm.py'),
    (dict(state_dict={'conv1.a': torch.ones(1)}, meta={}), 'it holds a dict with state_dict .1., meta', 'conv1 .1.'),
    (dict(lr=1, steps=[3]), 'it holds a dict with lr .1., steps .1.$', 'it holds a dict with lr .1., steps .1.;'),
    (dict(model=3), 'it holds a dict with model', 'it holds a dict with model'),
    (dict(state_dict=3), 'it holds a dict with state_dict', 'it holds a int'),
    ({}, 'it holds a dict with nothing', 'it holds a dict with nothing'),
    ([torch.ones(1)], 'it holds a list', 'it holds a list'),
    (torch.ones(1), 'it holds a Tensor', 'it holds a Tensor'),
])
def test_other_contents_are_told_apart(tmp_path, content, official, ours):
    torch.save(content, tmp_path / 'a.pth')
    for reader, message in ((read_official, official), (read_classifier, ours)):
        if message is None:
            assert list(reader(tmp_path / 'a.pth').values()) == [torch.ones(1)]
        else:
            with pytest.raises(ValueError, match=message):
                reader(tmp_path / 'a.pth')
