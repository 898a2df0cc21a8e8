"""PerViTCompileHook in a real runner: a compiled run is the same run, and its checkpoints are the same."""
import re

import pytest
import torch
from classifier_run import log_of, runner

from pervit_mm.engine import PerViTCompileHook
from pervit_mm.utils.errors import UserError

mmpretrain = pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')
# The graph is captured and traced through autograd. It is not lowered, because compiling the C++ takes minutes.
HOOK = dict(type='PerViTCompileHook', backend='aot_eager', fullgraph=True)


def test_a_compiled_run_is_the_same_run(tmp_path):
    """The same weights, the same keys, one graph for training, and hooks that record in every epoch."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    states, logs = [], []
    for name, hooks in (('eager', []), ('compiled', [HOOK])):
        run = runner(tmp_path / name, [*hooks, dict(type='AttentionStatsHook', num_images=2)], epochs=3)
        run.train()
        states.append(torch.load(tmp_path / name / 'epoch_3.pth')['state_dict'])
        logs.append(log_of(run))
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 1
    eager, compiled = states
    assert list(eager) == list(compiled)
    for key, value in eager.items():
        torch.testing.assert_close(compiled[key], value, msg=key)
    distances = [re.findall(r'attention_distance after (.*)', log) for log in logs]
    assert len(distances[0]) == 4 and distances[0] == distances[1], 'before training and after each epoch'
    assert 'PerViTCompileHook' in logs[1] and 'PerViTCompileHook' not in logs[0]


@pytest.mark.parametrize('options, message', [
    (dict(backend='inductr'), r'PerViTCompileHook: torch.compile refuses .*inductr'),
    (dict(mode='fast'), r'PerViTCompileHook: torch.compile refuses .*fast'),
    (dict(mode='default', options=dict(shape_padding=True)), 'refuses .*Either mode or options'),
    (dict(options=dict(padding=True)), r'refuses .*padding'),
    (dict(fullgraph=1), r'fullgraph of PerViTCompileHook must be of type bool, got 1'),
    (dict(dynamic='yes'), r"dynamic of PerViTCompileHook must be of type bool \| None, got 'yes'"),
])
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        PerViTCompileHook(**options)


def test_compiling_twice_and_compiling_nothing_are_refused(tmp_path):
    run = runner(tmp_path, [HOOK])
    run.cfg.compile = True
    with pytest.raises(UserError, match='compile=True of the config compiles the whole training step'):
        run.call_hook('before_run')
    run.cfg.compile = False
    run.model.backbone = torch.nn.Identity()
    with pytest.raises(UserError, match='ImageClassifier holds no PerViT'):
        run.call_hook('before_run')
