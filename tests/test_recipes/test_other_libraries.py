"""The code of docs/other_libraries.md about libraries that ``make test`` doesn't install."""
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import torch
from page_code import run_section
from torch.testing import assert_close

PAGE = 'other_libraries.md'


def needs(package):
    return pytest.mark.skipif(find_spec(package) is None, reason=f'{package} is not installed: make test-recipes')


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@needs('transformers')
@needs('safetensors')
def test_trainer():
    """It learns the 32 images, and what it saves gives the same logits."""
    from safetensors.torch import load_file
    names, switch = run_section(PAGE, 'Hugging Face Trainer')
    losses = [float(entry['loss']) for entry in names['trainer'].state.log_history if 'loss' in entry]
    assert len(losses) == 12 and losses[-1] < losses[0] - 0.1
    trained, again = names['trainer'].model.cpu().eval(), names['ForTrainer']().eval()
    again.load_state_dict(load_file('runs/final/model.safetensors'))
    x = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        assert_close(again(x)['logits'], trained(x)['logits'], rtol=0, atol=0)
    assert switch['mmpretrain'].utils.dependency.WITH_MULTIMODAL is False


@needs('lightning')
def test_lightning():
    losses = run_section(PAGE, 'Lightning')[0]['classifier'].losses
    assert len(losses) == 12 and losses[-1] < losses[0] - 0.1


@needs('lightly')
def test_lightly():
    names = run_section(PAGE, 'lightly')[0]
    losses = names['losses']
    assert len(losses) == 12 and losses[-1] < losses[0] - 0.1
    assert all(param.grad is not None for param in names['backbone'].parameters())


@needs('pytorch_grad_cam')
@needs('timm')
def test_grad_cam():
    """At the last norm it is the map of logits without bias, its positive part."""
    names = run_section(PAGE, 'grad-cam')[0]
    model, image = names['model'], names['image']
    with torch.no_grad():
        predicted = model.get_classifier().weight[model(image).argmax()]
        expected = (predicted @ model.forward_features(image)[0].flatten(1)).clamp(min=0)
    expected = cv2.resize(expected.reshape(7, 7).numpy(), (28, 28))
    expected = (expected - expected.min()) / np.ptp(expected)
    assert names['heat'].shape == (1, 28, 28) and np.ptp(names['heat']) > 0.5
    np.testing.assert_allclose(names['heat'][0], expected, atol=1e-4)
