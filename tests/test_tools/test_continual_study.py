"""tools/continual_study.py: each task starts from the task before; training is a stand-in."""
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.config import DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from pervit_mm.apis.configs import load_config
from pervit_mm.benchmarks import run_queue

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')
ROOT = Path(__file__).resolve().parents[2]
TOOL = str(ROOT / 'tools' / 'continual_study.py')


def test_every_method_has_a_config_whose_later_tasks_build_and_take_a_step(tmp_path):
    """As the options of its runs say; the checkpoint of the task before is that of the first task."""
    tool = runpy.run_path(TOOL)
    folder = ROOT / 'configs' / 'selfsup' / 'continual'
    assert {tool['config_of'](method) for method in tool['METHODS']} == set(folder.glob('*.py'))
    tasks, path = load_config(tool['config_of']('finetune')).tasks, str(tmp_path / 'old.pth')
    assert sorted(sum(tasks, [])) == list(range(10))
    for method in tool['METHODS']:
        run = tool['chain'](method, 0, tasks)[2]
        cfg = load_config(run.config)
        cfg.merge_from_dict({key: DictAction._parse_iterable(value.replace(f'{{{method}_task1_seed0}}', path))
                             for key, value in (option.split('=', 1) for option in run.options)})
        assert cfg.load_from == path and cfg.train_dataloader.dataset.classes == [4, 5]
        assert cfg.val_evaluator.seen == cfg.test_evaluator.seen == 3 and cfg.model.backbone.norm_eval
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            if method == 'finetune':  # any model of this shape
                torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), path)
            model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
            model.init_weights()
            optim_wrapper = build_optim_wrapper(model.train(), cfg.optim_wrapper)
        from mmpretrain.structures import DataSample
        data = dict(inputs=torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8),
                    data_samples=[DataSample().set_gt_label(label) for label in (4, 5, 5, 4)])
        others, before = [0, 1, 2, 3, 6, 7, 8, 9], model.head.fc.weight.detach().clone()
        log = model.train_step(data, optim_wrapper)
        expected = {'loss'} | {f'{name}_loss' for name in ('lwf', 'map', 'position')
                               if cfg.model.get(f'{name}_loss') or (name == 'lwf' and 'lwf_weight' in cfg.model)}
        assert set(log) == expected and all(value.isfinite() for value in log.values())
        assert ('lwf_weight' in cfg.model) != torch.equal(before[others], model.head.fc.weight[others])


def test_the_table_is_of_chains_that_share_their_first_task(monkeypatch, capsys, tmp_path):
    seen = []

    def train_all(tool, runs, root, jobs):
        seen.extend(runs)
        found = {}
        for run in runs:
            behind = int(run.name.split('task')[1][0])
            loss = 0 if run.name.startswith('lwf') else 5  # points on each earlier task with each later task
            found[run.name] = {f'tasks/{kind}_{task}': top - loss * (behind - task) for task in range(behind + 1)
                               for kind, top in (('aware', 95.), ('agnostic', 85.))}
        return found

    monkeypatch.setattr(run_queue, 'train_all', train_all)
    monkeypatch.setattr('sys.argv', ['continual_study.py', '--methods', 'finetune', 'lwf', '--seeds', '3', '--out',
                                     str(tmp_path / 'runs.csv'), '--cfg-options', 'a=1'])
    runpy.run_path(TOOL, run_name='__main__')
    names = [run.name for run in seen]
    assert names == ['task0_seed3', *(f'{method}_task{task}_seed3' for task in (1, 2, 3, 4)
                                      for method in ('finetune', 'lwf'))]
    for run in seen[1:]:
        method, task = run.name.split('_task')
        before = f'{method}_task{int(task[0]) - 1}_seed3' if task[0] != '1' else 'task0_seed3'
        assert run.needs(names) == [before] and run.options[0] == 'a=1'
        assert (f'model.old={{{before}}}' in run.options) == (method == 'lwf')
    lines = capsys.readouterr().out.splitlines()
    # Losses of 20, 15, 10, 5 and 0 points.
    assert lines[2:] == ['| finetune | 3 | 85.0 | 12.5 | 75.0 | 12.5 |', '| lwf | 3 | 95.0 | 0.0 | 85.0 | 0.0 |']
    assert (tmp_path / 'runs.csv').read_text().splitlines()[:3] == [
        'method,seed,kind,behind,task,accuracy', 'finetune,3,aware,0,0,95.0', 'finetune,3,aware,1,0,90.0']
