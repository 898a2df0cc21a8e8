"""The suite of pre-trainings: each subject trains, and the table has what was measured."""
import pytest
import torch

from pervit_mm.benchmarks import pretraining, suites
from pervit_mm.benchmarks.settings import Settings

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.mark.parametrize('name', pretraining.STEPS)
def test_a_subject_takes_steps_that_change_its_weights(name, monkeypatch):
    """The teacher's too, which lags behind: after a second step it has moved as well."""
    built = []
    build = pretraining.MODELS.build
    monkeypatch.setattr(pretraining.MODELS, 'build', lambda cfg: built.append(build(cfg)) or built[-1])
    run = suites.memory_case(f'pretraining/{name}/4')()
    model = built[-1]  # its parts are built ahead of it
    before = {key: value.clone() for key, value in model.state_dict().items() if value.is_floating_point()}
    run()
    after = model.state_dict()
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert any(key.startswith('backbone.blocks') for key in moved)
    assert any(key.startswith('teacher.module.backbone.blocks') for key in moved) == hasattr(model, 'teacher')


def test_the_table_has_a_row_for_each_step_and_one_for_neighbors(monkeypatch):
    monkeypatch.setattr(pretraining, 'STEPS', {'one': None, 'other': None})
    calls = []
    monkeypatch.setattr(pretraining, 'pretraining_step', lambda name, batch: lambda: calls.append((name, batch)))
    monkeypatch.setattr(Settings, 'first_call', lambda self, case: dict(peak_mib=len(case), seconds=2.5))
    rows = pretraining.pretraining(Settings(batches=(3, ), repeats=7), None)
    assert calls == [('one', 3), ('other', 3)] * 9  # two turns of warm-up
    assert [row['work'] for row in rows] == ['one', 'other', 'k-NN'] and rows[0]['ratio'] == '1.000'
    assert [row['peak MiB'] for row in rows] == [str(len(f'pretraining/{name}')) for name in
                                                 ('one/3', 'other/3', 'k-NN/0')] and rows[2]['ms'] == '2500'


def test_neighbors_are_asked_with_every_k(monkeypatch):
    asked = []
    monkeypatch.setattr(pretraining, 'knn_accuracy', lambda *args: asked.append([tuple(arg.shape) for arg in args]))
    pretraining.nearest_neighbors(50, 20, 8)()
    assert asked == [[(50, 8), (50, ), (20, 8), (20, )]]
