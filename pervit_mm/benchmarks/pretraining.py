"""Training steps of pre-trainings beside the supervised step of the same network, and the time of k-NN."""
from collections.abc import Callable
from types import ModuleType

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from ..apis.configs import load_config
from ..checkpoints import package_root
from ..evaluation import knn_accuracy
from .settings import Rows, Settings, row
from .subjects import device
from .timing import interleave

#: Config of each subject below ``configs/``, and the sides of its views in pixels. The first is what others are
#: compared with.
STEPS = {
    'supervised': ('pervit_nano_3e_fashion-mnist.py', ()),
    'SimMIM': ('selfsup/simmim_pervit-nano_1xb128-coslr-5e_fashion-mnist.py', ()),
    'MAE': ('selfsup/mae_pervit-nano_1xb128-coslr-5e_fashion-mnist.py', ()),
    'MAE, one token': ('selfsup/mae_pervit-nano_1xb128-coslr-5e_fashion-mnist.py', ()),
    'MILAN': ('selfsup/milan_pervit-nano_1xb128-coslr-5e_fashion-mnist.py', ()),
    'SiT': ('selfsup/sit_pervit-nano_1xb128-coslr-3e_fashion-mnist.py', (28, 28)),
    'DINO, two views': ('selfsup/dino_pervit-nano_1xb128-coslr-2e_fashion-mnist.py', (28, 28)),
    'DINO': ('selfsup/dino_pervit-nano_1xb128-coslr-2e_fashion-mnist.py', (28, 28, 16, 16, 16, 16)),
    'iBOT': ('selfsup/ibot_pervit-nano_1xb128-coslr-2e_fashion-mnist.py', (28, 28, 16, 16, 16, 16)),
    'EsViT': ('selfsup/esvit_pervit-nano_1xb128-coslr-2e_fashion-mnist.py', (28, 28, 16, 16, 16, 16)),
}
#: What a subject changes in its config. Random weights teach in the same time as others. With one token of 49, what is
#: left is what dropping cannot save: decoder, Φp of the grid, the optimizer.
OPTIONS = {
    'MAE, one token': {'model.backbone.mask_ratio': 0.98},
    'MILAN': {'model.target_generator.checkpoint': None},
}


def pretraining_step(subject: str, batch: int = 128) -> Callable[[], None]:
    """A function that runs one step of a training on noise: forward, backward, optimizer and teacher, in bfloat16.

    Args:
        subject (str): One of ``STEPS``.
        batch (int): Images. Defaults to 128.

    Returns:
        Callable: Takes and returns nothing.
    """
    from mmpretrain.structures import DataSample

    from .. import selfsup  # noqa: F401  registers the algorithms
    init_default_scope('mmpretrain')
    path, sides = STEPS[subject]
    cfg = load_config(package_root() / 'configs' / path)
    cfg.merge_from_dict(OPTIONS.get(subject, {}))
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).to(device())
    model.init_weights()
    model.train()
    options = dict(cfg.optim_wrapper, type='PerViTBFloat16OptimWrapper')
    options.setdefault('modules', ('backbone', ))
    optim_wrapper = build_optim_wrapper(model, options)
    generator = torch.Generator().manual_seed(0)
    views = [torch.randint(0, 256, (batch, 1, side, side), dtype=torch.uint8, generator=generator)
             for side in sides or (28, )]
    samples = []
    for _ in range(batch):
        sample = DataSample().set_gt_label(int(torch.randint(10, (), generator=generator)))
        # 30 of 49 tokens are hidden, SimMIM's 60 % rounded up.
        sample.set_field((torch.randperm(49, generator=generator) < 30).view(7, 7).long(), 'mask', dtype=torch.Tensor)
        samples.append(sample)
    data = dict(inputs=views if sides else views[0], data_samples=samples)

    def run() -> None:
        if hasattr(model, 'teacher'):
            model.set_progress(0.5)
        model.train_step(dict(data), optim_wrapper)
        if hasattr(model, 'teacher'):
            model.update_teacher()

    return run


def nearest_neighbors(bank: int = 60000, queries: int = 10000, width: int = 96) -> Callable[[], None]:
    """A function that classifies random features by their nearest neighbors, with every k of DINO.

    Args:
        bank (int): Labeled features. Defaults to 60000, those of Fashion-MNIST.
        queries (int): Features to classify. Defaults to 10000.
        width (int): Their width. Defaults to 96, that of PerViT-nano.

    Returns:
        Callable: Takes and returns nothing.
    """
    features = [torch.randn(number, width, device=device()) for number in (bank, queries)]
    labels = [torch.randint(0, 10, (number, ), device=device()) for number in (bank, queries)]

    def run() -> None:
        knn_accuracy(features[0], labels[0], features[1], labels[1])

    return run


def pretraining(settings: Settings, oracle: ModuleType) -> Rows:
    """One training step of PerViT-nano at 28 px in bfloat16; ratio: over the supervised step. Then k-NN, in float32.

    A step is forward, backward, optimizer and teacher, without loading. MAE sees 12 of 49 tokens; 'MAE, one token' is
    the floor of such a step. k-NN: 10,000 against 60,000 features of 96 values, k = 10, 20, 100 and 200.
    """
    batch, rows = settings.batches_or(128)[0], []
    timings = interleave({name: pretraining_step(name, batch) for name in STEPS}, settings.repeats)
    for name, timing in timings.items():
        memory = settings.first_call(f'pretraining/{name}/{batch}')['peak_mib']
        rows.append(row(timing, work=name, batch=batch, **{'peak MiB': f'{memory:.0f}'}))
    first = settings.first_call('pretraining/k-NN/0')
    rows.append({'work': 'k-NN', 'batch': '', 'peak MiB': f'{first["peak_mib"]:.0f}',
                 'ms': f'{1000 * first["seconds"]:.0f}', 'ratio': '', 'quartiles': ''})
    return rows
