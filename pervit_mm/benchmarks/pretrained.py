"""The pre-trainings of PerViT-nano on Fashion-MNIST, as runs of a queue."""
from pathlib import Path

from .run_queue import Run

#: Epochs of each system, as its config is named.
SYSTEMS = dict(simmim=5, mae=5, sit=3, milan=5, dino=2, esvit=2, ibot=2, attmask=2)
#: Systems without a teacher that follows. Of the others, the teacher is scored.
ALONE = ('simmim', 'mae', 'milan')


def config_of(configs: str | Path, system: str) -> Path:
    """Config of a system.

    Args:
        configs (str | Path): Folder ``configs/selfsup``.
        system (str): One of :data:`SYSTEMS`.
    """
    return Path(configs) / f'{system}_pervit-nano_1xb128-coslr-{SYSTEMS[system]}e_fashion-mnist.py'


def prefix_of(system: str) -> str:
    """What the keys of the backbone to score begin with in a checkpoint of a system."""
    return 'backbone.' if system in ALONE else 'teacher.module.backbone.'


def pretrainings(configs: str | Path, system: str, seed: int, options: tuple[str, ...] = ()) -> list[Run]:
    """The pre-training of a system, behind those that it starts from.

    MILAN learns from the teacher of the SiT of its seed.

    Args:
        configs (str | Path): Folder ``configs/selfsup``.
        system (str): One of :data:`SYSTEMS`.
        seed (int): Random seed.
        options (tuple[str, ...]): ``KEY=VALUE`` for each training. Defaults to ().

    Returns:
        list[Run]: The last one is the system's.
    """
    ahead = pretrainings(configs, 'sit', seed, options) if system == 'milan' else []
    target = (f'model.target_generator.checkpoint={{{ahead[-1].name}}}', ) if ahead else ()
    return [*ahead, Run(f'{system}_seed{seed}', str(config_of(configs, system)), seed, (*options, *target))]
