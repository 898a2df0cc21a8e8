"""TensorBoard, Weights & Biases and EMA in a training, by the snippets of docs/recipes.md."""
import json
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from recipe_run import runner_to_test, scalars, snippets, trained, write_config

from pervit_mm.publishing.publish import strip_checkpoint

pytest.importorskip('mmpretrain')


class Averages(Hook):
    """The definition of EMA: a copy at the first iteration, then a share ``momentum`` of each new value."""

    def __init__(self, momentum):
        self.momentum, self.kept = momentum, None

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        new = {key: value.detach().clone() for key, value in runner.model.state_dict().items()
               if value.is_floating_point()}
        self.kept = new if self.kept is None else {
            key: (1 - self.momentum) * value + self.momentum * new[key] for key, value in self.kept.items()}


def test_tensorboard_gets_what_the_log_gets(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    run = trained(write_config(tmp_path, snippets('TensorBoard')[0]))
    folder, = tmp_path.rglob('vis_data')
    events = EventAccumulator(str(folder), size_guidance=dict(scalars=0))
    events.Reload()
    for key, count in (('loss', 8), ('lr', 8), ('accuracy/top1', 2)):
        values = [event.value for event in events.Scalars(key)]
        assert len(values) == count and values == pytest.approx(scalars(run, key), rel=1e-5), key


def test_averages_are_validated_tested_and_published(tmp_path):
    snippet, = snippets('EMA')
    assert snippet.count('momentum=0.001') == 1
    # Eight iterations: at the momentum of the page, the averages would be the first weights.
    config, averages = write_config(tmp_path, snippet.replace('momentum=0.001', 'momentum=0.3')), Averages(0.3)
    run = trained(config, [averages])
    path = Path(run.message_hub.get_info('last_ckpt'))
    content = torch.load(path, weights_only=True)
    raw = run.model.state_dict()
    for key, value in averages.kept.items():
        torch.testing.assert_close(content['state_dict'][key], value, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(content['ema_state_dict'][f'module.{key}'], raw[key], atol=0, rtol=0)
        torch.testing.assert_close(strip_checkpoint(content)['state_dict'][key], content['state_dict'][key])
    weight = 'head.fc.weight'
    assert (content['state_dict'][weight] - raw[weight]).abs().max() > 1e-4, 'they differ'
    assert runner_to_test(config, path).test()['accuracy/top1'] == scalars(run, 'accuracy/top1')[-1]


def records(path):
    """Records of W&B's file: a header of 7 bytes, then blocks of 32 KiB with parts of records."""
    data, record = path.read_bytes(), b''
    place = 7
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack('<IHB', data[place:place + 7])
        record += data[place + 7:place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b''


@pytest.mark.skipif(find_spec('wandb') is None, reason='wandb is not installed; make test-recipes installs it')
def test_wandb_offline_gets_what_the_log_gets(tmp_path, monkeypatch):
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record
    monkeypatch.chdir(tmp_path)  # its default is to save the code of this folder
    run = trained(write_config(tmp_path, snippets('Weights & Biases')[0]))
    wandb.teardown()  # another process writes the file, and is done then
    path, = tmp_path.rglob('*.wandb')
    assert 'offline-run' in str(path.parent) and 'vis_data' in str(path.parent)
    found = {}
    for record in map(Record.FromString, records(path)):
        for item in record.history.item:
            found.setdefault(item.key or '.'.join(item.nested_key), []).append(json.loads(item.value_json))
    for key, count in (('loss', 8), ('accuracy/top1', 2)):
        assert len(found[key]) == count and found[key] == pytest.approx(scalars(run, key), rel=1e-5), key
