"""int8 by ONNX Runtime and by torch, and OpenVINO: the code of docs/recipes.md on the published PerViT-nano."""
import os
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from recipe_run import ROOT, snippets, write_data

from pervit_mm.apis import export
from pervit_mm.apis.configs import load_config
from pervit_mm.apis.named_models import models_by_name

pytest.importorskip('mmpretrain')
for name in ('onnx', 'onnxscript', 'onnxruntime'):
    pytest.importorskip(name)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with nano.onnx, exported as on the page, and a few images in the place of Fashion-MNIST's."""
    folder = tmp_path_factory.mktemp('int8')
    config, checkpoint = models_by_name()['pervit_nano_fashion-mnist']
    export.export_checkpoint(load_config(ROOT / config), checkpoint, folder / 'nano.onnx', 'onnx')
    write_data(folder / 'data' / 'fashion_mnist')
    return folder


@pytest.fixture
def page(folder, monkeypatch):
    """Run code of the page in the folder. Returns a function from code and variables to all variables."""
    monkeypatch.chdir(folder)

    def run(code, **variables):
        exec(code, variables)
        return variables
    return run


def change(logits, exact):
    """Mean difference of logits, in standard deviations."""
    return float(np.abs(logits - exact).mean() / exact.std())


def test_onnx_runtime_quantizes_the_exported_file(page, capsys):
    """Its logits stay near those of float32, and the file is smaller. The exported one has no shapes in its graph."""
    import onnx
    import onnxruntime
    images = page(*snippets('int8 by ONNX Runtime'))['images']
    assert capsys.readouterr().out.count('onnx: top-1 ') == 2
    exact, quantized = (onnxruntime.InferenceSession(name).run(None, dict(images=images))[0]
                        for name in ('nano.onnx', 'nano_int8.onnx'))
    assert 0 < change(quantized, exact) < 0.3
    assert not onnx.load('nano.onnx').graph.value_info
    weights = {tensor.data_type for tensor in onnx.load('nano_int8.onnx').graph.initializer}
    assert onnx.TensorProto.INT8 in weights
    assert os.path.getsize('nano_int8.onnx') < 0.5 * os.path.getsize('nano.onnx')


def test_torch_quantizes_the_linear_layers(page):
    images = torch.randn(20, 1, 28, 28).numpy()
    found = page(*snippets('int8 by torch'), images=images)
    model, kinds = found['model'], [type(module) for module in found['quantized'].modules()]
    linear = sum(isinstance(module, torch.nn.Linear) for module in model.modules())
    assert kinds.count(torch.ao.nn.quantized.dynamic.Linear) == linear > 0 and torch.nn.Linear not in kinds
    with torch.no_grad():
        assert 0 < change(found['logits'].numpy(), model(torch.from_numpy(images)).numpy()) < 0.3


@pytest.mark.skipif(find_spec('openvino') is None, reason='openvino is not installed; make test-recipes installs it')
def test_openvino_computes_the_same(page):
    images = np.random.default_rng(0).standard_normal((20, 1, 28, 28), np.float32)
    found = page(*snippets('OpenVINO'), images=images)
    session = export._open('nano.onnx', 'onnx')
    expected = session(torch.from_numpy(images))[0].numpy()
    np.testing.assert_allclose(found['logits'], expected, atol=1e-4)
