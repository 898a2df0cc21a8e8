"""A run of a fraction of a second, for the tests of saving, resuming and stopping."""
from itertools import count

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn

from pervit_mm.engine import PerViTRunner

#: MMEngine wants a different name for each run of a process.
_RUNS = count()
#: Number of training samples, and batch size.
SAMPLES, BATCH = 12, 4


class ToyModel(BaseModel):
    """A linear layer with dropout, so that the random state matters."""

    def __init__(self, width=3):
        super().__init__()
        self.linear = nn.Linear(4, width)

    def forward(self, x, y=None, mode='tensor'):
        out = self.linear(nn.functional.dropout(x, 0.3, self.training))
        if mode == 'loss':
            return dict(loss=(out - y[:, None]).square().mean())
        return [out] if mode == 'predict' else out


class ToyMetric(BaseMetric):
    """Returns the given scores in turn, one for each validation."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.calls = list(scores), 0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        self.calls += 1
        return dict(score=self.scores[(self.calls - 1) % len(self.scores)])


def samples(bad=()):
    """The training set. The samples with the indices ``bad`` are NaN."""
    generator = torch.Generator().manual_seed(3)
    data = [dict(x=torch.randn(4, generator=generator), y=torch.tensor(float(i % 3))) for i in range(SAMPLES)]
    for index in bad:
        data[index]['x'] = torch.full((4, ), float('nan'))
    return data


def toy_runner(work_dir, epochs=3, scores=None, checkpoint=None, hooks=(), bad=(), width=3, optimizer=None,
               by_iteration=None, train_dataloader=None, logger=None, kind=ToyModel, optim_wrapper=None, **kwargs):
    """A ``PerViTRunner`` in this process. It trains a model of the class ``kind``."""
    val = {} if scores is None else dict(
        val_dataloader=dict(batch_size=4, num_workers=0, dataset=samples(), collate_fn=dict(type='default_collate'),
                            sampler=dict(type='DefaultSampler', shuffle=False)),
        val_cfg=dict(), val_evaluator=[ToyMetric(scores)])
    train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=1)
    if by_iteration:
        train_cfg = dict(by_epoch=False, max_iters=by_iteration, val_interval=3)
    torch.manual_seed(0)  # the model is made before the runner sets its own seed
    return PerViTRunner(
        model=kind(width), work_dir=str(work_dir),
        train_dataloader=train_dataloader or dict(
            batch_size=BATCH, num_workers=0, dataset=samples(bad), collate_fn=dict(type='default_collate'),
            sampler=dict(type='InfiniteSampler' if by_iteration else 'DefaultSampler', shuffle=True)),
        train_cfg=train_cfg,
        optim_wrapper=optim_wrapper or dict(optimizer=optimizer or dict(type='Adam', lr=0.01)),
        default_hooks=dict(checkpoint=dict(type='PerViTCheckpointHook', **(checkpoint or dict(interval=1))),
                           logger=logger or dict(type='LoggerHook')),
        custom_hooks=[dict(type='PerViTRandomStateHook'), *hooks], default_scope='mmengine', randomness=dict(seed=0),
        log_level='ERROR', experiment_name=f'{work_dir}'.replace('/', '_') + f'_{next(_RUNS)}',
        **val, **kwargs)


def weights(runner):
    """A copy of the weights."""
    return {key: value.clone() for key, value in runner.model.state_dict().items()}
