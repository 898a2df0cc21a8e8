"""From a config to a runner that starts on this machine, for tools/train.py and tools/test.py.

A wrong path becomes one sentence here, before anything is built.
"""
import argparse
import os
import os.path as osp

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_distributed
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..checkpoints import check_checkpoint, check_pretrained, checkpoint_folders, find_resumable
from ..datasets.fashion_scenes_files import MANIFEST
from ..utils.errors import UserError
from ..utils.type_names import type_name
from . import machine
from .preflight import check_masks, innermost_dataset

# MMPretrain's small datasets, which download themselves where `download` isn't False.
SELF_DOWNLOADING = ('MNIST', 'FashionMNIST', 'CIFAR10', 'CIFAR100')


def add_launcher_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what a tool must understand to run in several processes.

    Args:
        parser (argparse.ArgumentParser): Gets ``--launcher`` and ``--local_rank``.
    """
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
        help='who started the processes')
    # torch.distributed.launch passes one of these; torchrun sets the variable itself.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0,
                        help=argparse.SUPPRESS)


def default_work_dir(config_path: str) -> str:
    """``./work_dirs/<file stem of the config>``: a model's name is its config's file stem."""
    return osp.join('./work_dirs', osp.splitext(osp.basename(config_path))[0])


def prepare_config(cfg: Config,
                   config_path: str,
                   *,
                   launcher: str = 'none',
                   work_dir: str | None = None,
                   resume: str | None = None,
                   amp: bool = False,
                   validate: bool = True,
                   auto_scale_lr: bool = False,
                   seed: int | None = None) -> list[str]:
    """Put command line options into a training config and fit it to this machine, in place.

    Args:
        cfg (Config): The config from :func:`pervit_mm.apis.configs.load_config`.
        config_path (str): Its file, which names the default work directory.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'. Defaults to 'none'.
        work_dir (str, optional): Where logs and checkpoints go. Defaults to the config's
            ``work_dir``, or else ``./work_dirs/<config stem>``.
        resume (str, optional): 'auto' for the latest checkpoint of the work directory, or a path.
            Defaults to None.
        amp (bool): Train in mixed precision. Defaults to False.
        validate (bool): Whether to evaluate during training. Defaults to True.
        auto_scale_lr (bool): Scale the learning rate with the batch. Defaults to False.
        seed (int, optional): The random seed, in place of the config's. Defaults to None.

    Returns:
        list[str]: What had to be changed for this machine, one sentence each, for the log.

    Raises:
        UserError: If the config can't be trained, or a path or option is wrong.
    """
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        if cfg.get(key) is None:
            raise UserError(f'config {config_path!r} has no {key}, so it cannot be trained')
    _set_common(cfg, config_path, launcher, work_dir)
    if not validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if seed is not None:
        cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}
    if auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise UserError(f'--auto-scale-lr: config {config_path!r} names no batch size to '
                            'scale from; add auto_scale_lr = dict(base_batch_size=...)')
        cfg.auto_scale_lr.enable = True
    notes = []
    if resume is not None:
        hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
        folders = checkpoint_folders(cfg.work_dir, hook.get('out_dir'))
        path, note = find_resumable(cfg.work_dir, folders) if resume == 'auto' else (resume, None)
        if note:
            notes.append(f'--resume: {note}')
        if path is None:  # MMEngine would drop `load_from` and start from random weights
            notes.append(f'--resume: no checkpoint in {cfg.work_dir} yet, so this run starts at the beginning'
                         + (f', from {cfg.load_from}.' if cfg.get('load_from') else '.'))
        else:
            cfg.load_from = path
        cfg.resume = path is not None
    if cfg.get('load_from'):
        check_checkpoint(cfg.load_from, '--resume' if cfg.get('resume') else 'load_from')
    check_masks(cfg)
    check_pretrained(cfg.model)  # read even ahead of resuming: Runner fills in weights first
    for loader in ('train_dataloader', 'val_dataloader'):
        check_data(cfg, loader)
    if amp:
        _enable_amp(cfg)
    return notes + machine.fit_to_machine(cfg)


def prepare_test_config(cfg: Config,
                        config_path: str,
                        checkpoint: str,
                        *,
                        launcher: str = 'none',
                        work_dir: str | None = None,
                        tta: bool = False) -> list[str]:
    """The counterpart of :func:`prepare_config` for evaluating a checkpoint.

    Args:
        cfg (Config): The config from :func:`pervit_mm.apis.configs.load_config`.
        config_path (str): Its file.
        checkpoint (str): The checkpoint to evaluate.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'. Defaults to 'none'.
        work_dir (str, optional): Where the log goes. Defaults as in :func:`prepare_config`.
        tta (bool): Whether to augment in testing, see :func:`add_tta`. Defaults to False.

    Returns:
        list[str]: What had to be changed for this machine, one sentence each.

    Raises:
        UserError: If the config can't be tested, or a path is wrong.
    """
    for key in ('test_dataloader', 'test_cfg', 'test_evaluator'):
        if cfg.get(key) is None:
            raise UserError(f'config {config_path!r} has no {key}, so there is nothing to test')
    _set_common(cfg, config_path, launcher, work_dir)
    check_checkpoint(checkpoint, 'checkpoint')
    cfg.load_from, cfg.resume = checkpoint, False
    check_data(cfg, 'test_dataloader')
    if tta:
        add_tta(cfg)
    return machine.fit_to_machine(cfg, training=False)


def add_tta(cfg: Config) -> None:
    """Let a config test with augmentation, as ``--tta`` of the toolboxes' own tools does, in place.

    ``tta_pipeline`` makes several inputs of each image, and ``tta_model`` merges their predictions. As in MMPretrain, a
    classifier needs neither: the scores of each image and its mirror image are averaged. ``EMAHook`` is left out: a
    checkpoint has the averages already, and MMPretrain's hook would put random weights into the wrapped model.

    Args:
        cfg (Config): Of any toolbox, with a ``test_dataloader``.

    Raises:
        UserError: If the config is no classifier's and lacks one of the two.
    """
    _, dataset = innermost_dataset(cfg, 'test_dataloader')
    if cfg.get('default_scope') == 'mmpretrain':
        *load, pack = dataset.pipeline
        flips = [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)]
        cfg.setdefault('tta_model', ConfigDict(type='AverageClsScoreTTA'))
        cfg.setdefault('tta_pipeline', [*load, dict(type='TestTimeAug', transforms=[flips, [pack]])])
    missing = [key for key in ('tta_model', 'tta_pipeline') if cfg.get(key) is None]
    if missing:
        raise UserError(f'--tta: the config has no {" and no ".join(missing)}, and only classifiers have a default: '
                        'add them, see docs/recipes.md')
    # MMEngine hands the config's data_preprocessor to the wrapped model, in place of the model's own.
    cfg.data_preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline
    if cfg.get('custom_hooks'):
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if type_name(hook) != 'EMAHook']


def build_runner(cfg: Config) -> Runner:
    """Build the runner, after opening a gloo process group where MMEngine would ask for CUDA.

    Args:
        cfg (Config): A config that one of the ``prepare`` functions has seen.

    Returns:
        Runner: Ready to ``train()`` or ``test()``.

    Raises:
        UserError: If the launcher can't start here, or its variables are missing.
    """
    if cfg.launcher != 'none' and not machine.has_accelerator() and not is_distributed():
        dist_cfg = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
        machine.init_gloo(cfg.launcher, dist_cfg.get('timeout'))
    cfg.setdefault('runner_type', 'pervit_mm.PerViTRunner')
    return RUNNERS.build(cfg)


def set_local_rank(launcher: str, local_rank: int) -> None:
    """Tell MMEngine which GPU of the machine is this process's, unless the launcher has.

    Args:
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'. Open MPI has a variable of its own.
        local_rank (int): From ``--local_rank``.
    """
    rank = os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', local_rank) if launcher == 'mpi' else local_rank
    os.environ.setdefault('LOCAL_RANK', str(rank))


def check_data(cfg: dict, loader: str) -> None:
    """Raise UserError where a loader's dataset points to a folder or file that isn't there.

    Args:
        cfg (dict): The config.
        loader (str): The name of a loader in it, for example 'train_dataloader'.
    """
    name, dataset = innermost_dataset(cfg, loader)
    if not isinstance(dataset, dict):
        return
    root = dataset.get('data_root') or ''
    kind = type_name(dataset)
    if '://' in root or dataset.get('backend_args') or (
            kind in SELF_DOWNLOADING and dataset.get('download', True)):
        return  # not, or not yet, on this disk
    prefix = dataset.get('data_prefix') or (kind == 'ImageNet' and dataset.get('split')) or ''
    parts = list(prefix.values()) if isinstance(prefix, dict) else [prefix]
    parts.append(dataset.get('ann_file') or '')
    for part in parts:
        if not isinstance(part, str) or '://' in part:
            continue
        path = osp.join(root, part)
        if path and not osp.exists(path):
            next_step = f'Put the data there, or say where it is with --cfg-options {name}.data_root=...'
            if osp.isfile(osp.join(root, MANIFEST)):  # drawn by an earlier version, or without this split
                next_step = 'Draw the scenes anew with tools/prepare_fashion_scenes.py'
            raise UserError(f'{name} ({kind}): {path!r} does not exist, seen from {os.getcwd()!r}. {next_step}')


def _set_common(cfg: Config, config_path: str, launcher: str, work_dir: str | None) -> None:
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or default_work_dir(config_path)
    if osp.exists(cfg.work_dir) and not osp.isdir(cfg.work_dir):
        raise UserError(f'--work-dir: {cfg.work_dir!r} is a file; give a directory')
    if cfg.get('default_scope') != 'mmpretrain':
        return
    # MMPretrain's preprocessor is fastest on stacked batches, and its own configs leave this to
    # the tool that reads them.
    for loader in machine.LOADERS:
        if cfg.get(loader) is not None:
            cfg[loader].setdefault('collate_fn', ConfigDict(type='default_collate'))
            cfg[loader].setdefault('pin_memory', torch.cuda.is_available())
            cfg[loader].setdefault('persistent_workers', cfg[loader].get('num_workers', 0) > 0)


def _enable_amp(cfg: Config) -> None:
    kind = type_name(cfg.optim_wrapper) or 'OptimWrapper'
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise UserError(f"--amp works on optim_wrapper.type 'OptimWrapper', but the config has "
                        f'{kind!r}; set its precision in the config')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
