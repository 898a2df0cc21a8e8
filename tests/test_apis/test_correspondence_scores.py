"""Networks that look at generated sequences: the weights asked for, statistics of the frames, and known scores."""
import dataclasses

import numpy as np
import pytest
import torch
from conftest import TINY_ARCH, randomize
from made_items import make_items
from mmengine.config import Config

from pervit_mm.apis.correspondence_scores import (
    frame_features,
    frame_inputs,
    open_network,
    pixel_features,
    score_sequences,
    training_frames,
)
from pervit_mm.datasets import FashionSequences
from pervit_mm.models import PerViT
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')
BACKBONE = dict(type='PerViT', arch=TINY_ARCH, img_size=28, in_channels=1, out_type='raw')


@pytest.fixture(scope='module')
def sequences():
    return {split: FashionSequences(*make_items(seed), split) for seed, split in enumerate(('train', 'test'))}


def test_a_network_has_the_weights_and_the_statistics_of_the_frames(sequences, tmp_path):
    pytest.importorskip('mmpretrain')
    own = randomize(PerViT(**{key: value for key, value in BACKBONE.items() if key != 'type'}))
    path = tmp_path / 'teacher.pth'
    torch.save(dict(state_dict={f'teacher.module.backbone.{key}': value for key, value in own.state_dict().items()}),
               path)
    cfg = Config(dict(
        model=dict(type='ImageClassifier', backbone=BACKBONE), default_scope='mmpretrain',
        data_preprocessor=dict(type='ClsDataPreprocessor', mean=[70.], std=[90.], to_rgb=False)))
    batches = training_frames(sequences['train'], 3, 2)
    subject = open_network(cfg, str(path), batches)
    assert all(block.attn.position.distance_scale == 'fixed' for block in subject.backbone.blocks)
    for name, param in own.named_parameters():
        assert torch.equal(param, subject.backbone.get_parameter(name)), name
    frames = sequences['test'].sequence(1).frames
    inputs = frame_inputs(subject, frames[:2])
    gray = frames[:2] @ np.array([0.2989, 0.587, 0.114])
    assert (inputs[:, 0].numpy() * 90 + 70 == pytest.approx(gray, abs=1.01)), 'gray is rounded down to whole numbers'
    # The first convolution's output over all frames that were drawn has the mean of the statistics.
    first = subject.backbone.stem.layers[0]
    drawn = [sequences['train'].sequence(index).frames[[0, -1]] for index in range(3)]
    assert np.array_equal(np.stack(batches, 1), drawn)
    seen = first.conv(frame_inputs(subject, np.concatenate(drawn)))
    torch.testing.assert_close(first.norm.running_mean, seen.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    features = frame_features(subject, frames[:2])
    assert features.shape == (2, 28, 28, 24)
    tokens = subject.backbone(inputs)[-1]
    torch.testing.assert_close(features[1, 3, 5], tokens[1, :, 3, 5])
    with pytest.raises(UserError, match="of the training items, split 'train', got 'test'"):
        training_frames(sequences['test'])


def test_scores_are_means_over_kinds_of_ground(sequences):
    """Features that name the item of each token follow it well, copied masks don't."""
    drawn = [sequences['test'].sequence(index) for index in range(3)]
    chosen = [dataclasses.replace(one, frames=one.frames[::6], owners=one.owners[::6]) for one in drawn]
    known = [torch.nn.functional.one_hot(torch.from_numpy(sequence.owners[:, 2::4, 2::4]).long(), 6).float()
             for sequence in chosen]
    good, copied = score_sequences(chosen, known), score_sequences(chosen, [None] * 3)
    assert good['J'] > 70 > 40 > copied['J']
    still, drifting = (sum(len(one.items) for one in chosen if one.drifts is drifts) for drifts in (False, True))
    for found in (good, copied):
        mean = (still * found['J, still'] + drifting * found['J, drifting']) / (still + drifting)
        assert found['J'] == pytest.approx(mean) and found['J, still'] != found['J, drifting']


def test_pixels_are_gray_and_centered(sequences):
    chosen = [sequences['test'].sequence(0)]
    found, = pixel_features(chosen, 4)
    assert found.shape == (24, 28, 28, 16) and found[0].mean().abs() < 1e-3
    gray = chosen[0].frames[5, 8:12, 12:16] @ np.array([0.2989, 0.587, 0.114])
    difference = found[5, 2, 3].view(4, 4).numpy() - gray
    assert np.ptp(difference) < 1.01  # one mean is taken from all pixels
