"""The pre-trainings of PerViT-nano on Fashion-MNIST, as runs of a queue."""
from pathlib import Path

from ..apis.configs import load_config
from .run_queue import Run

#: Epochs of each system, as its config is named.
SYSTEMS = dict(simmim=5, mae=5, sit=3, dino=2, esvit=2, ibot=2, milan=5, attmask=2)
#: Systems without a teacher that follows. Of the others, the teacher is scored.
ALONE = ('simmim', 'mae', 'milan')
#: Systems whose error on hidden pixels can be measured.
PIXELS = ('simmim', 'mae')
#: The system whose teacher MILAN learns from and Leopart starts from. Its attention looks at items. SiT's doesn't.
TEACHER = 'ibot'


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


def folder_options(config: str | Path, folder: str) -> tuple[str, ...]:
    """Options that let a pre-training read Fashion-MNIST elsewhere, in training and for its neighbors.

    Args:
        config (str | Path): See :func:`config_of`.
        folder (str): Where the files are.
    """
    places = ['train_dataloader']
    for number, hook in enumerate(load_config(config).custom_hooks):
        if hook.type == 'KNNHook':
            places += [f'custom_hooks.{number}.bank', f'custom_hooks.{number}.queries']
    return tuple(f'{place}.dataset.data_root={folder}' for place in places)


def pretrainings(configs: str | Path, system: str, seed: int, options: tuple[str, ...] = (),
                 folder: str | None = None) -> list[Run]:
    """The pre-training of a system, behind those that it starts from.

    MILAN learns from the teacher of the iBOT of its seed.

    Args:
        configs (str | Path): Folder ``configs/selfsup``.
        system (str): One of :data:`SYSTEMS`.
        seed (int): Random seed.
        options (tuple[str, ...]): ``KEY=VALUE`` for each training. Defaults to ().
        folder (str, optional): Of Fashion-MNIST, see :func:`folder_options`. Defaults to None, as the config has it.

    Returns:
        list[Run]: The last one is the system's.
    """
    ahead = pretrainings(configs, TEACHER, seed, options, folder) if system == 'milan' else []
    target = (f'model.target_generator.checkpoint={{{ahead[-1].name}}}', ) if ahead else ()
    config = config_of(configs, system)
    places = () if folder is None else folder_options(config, folder)
    return [*ahead, Run(f'{system}_seed{seed}', str(config), seed, (*places, *options, *target))]
