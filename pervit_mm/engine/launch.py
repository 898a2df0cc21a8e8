"""From a config file to a runner that starts on this machine, for tools/train.py and test.py.

MMEngine's Runner takes CUDA for granted in three places: AmpOptimWrapper, the process group and the
device ids of DDP. What follows makes the same config run without a GPU, and turns a wrong path into
a sentence before anything is built.
"""
import argparse
import inspect
import os
import os.path as osp
from importlib.util import find_spec
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import is_cuda_available, is_mlu_available, is_musa_available, is_npu_available
from mmengine.dist import is_distributed, master_only
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from .launch_checks import LaunchError, check_checkpoint, check_data, check_pretrained

# Distribution to install for each scope that a config may name.
TOOLBOXES = dict(mmpretrain='mmpretrain', mmdet='mmdet', mmseg='mmsegmentation')

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config file and merge overrides into it.

    Args:
        path (str): The config file.
        options (dict, optional): Overrides with dotted keys, as ``--cfg-options`` gives them.
            Defaults to None.

    Returns:
        Config: The resolved config.

    Raises:
        LaunchError: If the file, its toolbox or an override's first word is not there.
    """
    if not osp.isfile(path):
        raise LaunchError(f'config {path!r} is not a file: give the path of a config, for example '
                          'configs/pervit_tiny.py')
    try:
        cfg = Config.fromfile(path)
    except (FileNotFoundError, ImportError, SyntaxError) as error:
        raise LaunchError(f'config {path!r} cannot be read: {error}') from error
    scope = cfg.get('default_scope', 'mmengine')
    if scope in TOOLBOXES and find_spec(scope) is None:
        raise LaunchError(f"config {path!r} has default_scope='{scope}', but {scope} isn't "
                          f'installed: pip install {TOOLBOXES[scope]}')
    if options:
        _reject_unknown_top_level(cfg, options)
        cfg.merge_from_dict(options)
    return cfg


def _reject_unknown_top_level(cfg: Config, options: dict[str, Any]) -> None:
    """Raise for an override whose first word the config doesn't know: it would be ignored."""
    # Runner's arguments, and what it and the toolboxes read from the config besides.
    known = {*inspect.signature(Runner.__init__).parameters, 'compile', 'find_unused_parameters', 'sync_bn',
             'model_wrapper_cfg', 'activation_checkpointing', 'runner_type', 'efficient_conv_bn_eval', 'custom_imports',
             'tta_model', 'tta_pipeline'} - {'self', 'cfg'}
    for key in options:
        first = key.split('.')[0]
        if first not in cfg and first not in known:
            raise LaunchError(f'--cfg-options {key}: the config has no {first!r}; it has '
                              f'{", ".join(sorted(cfg.keys()))}')


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


def has_accelerator() -> bool:
    """Whether this machine has a device that AmpOptimWrapper accepts."""
    return (is_cuda_available() or is_npu_available() or is_mlu_available()
            or is_musa_available())


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
        cfg (Config): The config from :func:`load_config`.
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
        LaunchError: If the config can't be trained, or a path or option is wrong.
    """
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        if cfg.get(key) is None:
            raise LaunchError(f'config {config_path!r} has no {key}, so it cannot be trained')
    _set_common(cfg, config_path, launcher, work_dir)
    if not validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if seed is not None:
        cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}
    if auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise LaunchError(f'--auto-scale-lr: config {config_path!r} names no batch size to '
                              'scale from; add auto_scale_lr = dict(base_batch_size=...)')
        cfg.auto_scale_lr.enable = True
    notes = []
    if resume is not None:
        # MMEngine drops `load_from` for a resume, and starts from scratch where there is nothing to resume.
        if resume == 'auto' and (not osp.isdir(cfg.work_dir) or find_latest_checkpoint(cfg.work_dir) is None):
            notes.append(f'--resume: no checkpoint in {cfg.work_dir} yet, so this run starts at the beginning'
                         + (f', from {cfg.load_from}.' if cfg.get('load_from') else '.'))
            cfg.resume = False
        else:
            cfg.resume = True
            cfg.load_from = None if resume == 'auto' else resume
    if cfg.get('load_from'):
        check_checkpoint(cfg.load_from, '--resume' if cfg.get('resume') else 'load_from')
    check_pretrained(cfg.model)  # read even ahead of resuming: Runner fills in weights first
    for loader in ('train_dataloader', 'val_dataloader'):
        check_data(cfg, loader)
    if amp:
        _enable_amp(cfg)
    return notes + _fit_to_machine(cfg)


def prepare_test_config(cfg: Config,
                        config_path: str,
                        checkpoint: str,
                        *,
                        launcher: str = 'none',
                        work_dir: str | None = None) -> list[str]:
    """The counterpart of :func:`prepare_config` for evaluating a checkpoint.

    Args:
        cfg (Config): The config from :func:`load_config`.
        config_path (str): Its file.
        checkpoint (str): The checkpoint to evaluate.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'. Defaults to 'none'.
        work_dir (str, optional): Where the log goes. Defaults as in :func:`prepare_config`.

    Returns:
        list[str]: What had to be changed for this machine, one sentence each.

    Raises:
        LaunchError: If the config can't be tested, or a path is wrong.
    """
    for key in ('test_dataloader', 'test_cfg', 'test_evaluator'):
        if cfg.get(key) is None:
            raise LaunchError(f'config {config_path!r} has no {key}, so there is nothing to test')
    _set_common(cfg, config_path, launcher, work_dir)
    check_checkpoint(checkpoint, 'checkpoint')
    cfg.load_from, cfg.resume = checkpoint, False
    check_data(cfg, 'test_dataloader')
    return _fit_to_machine(cfg, training=False)


def build_runner(cfg: Config) -> Runner:
    """Build the runner, after opening a gloo process group where MMEngine would ask for CUDA.

    Args:
        cfg (Config): A config that one of the ``prepare`` functions has seen.

    Returns:
        Runner: Ready to ``train()`` or ``test()``.

    Raises:
        LaunchError: If the launcher can't start here, or its variables are missing.
    """
    if cfg.launcher != 'none' and not has_accelerator() and not is_distributed():
        _init_gloo(cfg.launcher)
    return Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)


@master_only
def print_result(runner: Runner) -> None:
    """Print one line per metric of the last validation, and where the checkpoint is.

    Args:
        runner (Runner): After ``train()``.
    """
    hub = runner.message_hub
    for key, history in hub.log_scalars.items():
        if key.startswith('val/') and not key.endswith(('/time', '/data_time')):
            print(f'{describe_metric(key[len("val/"):])}: {history.current():.4g}')
    for key, words in (('best_ckpt', 'best checkpoint'), ('last_ckpt', 'checkpoint')):
        if hub.runtime_info.get(key):
            print(f'{words}: {osp.relpath(hub.get_info(key))}')


def describe_metric(key: str) -> str:
    """Name a metric as a reader would: 'accuracy/top1' becomes 'top-1 accuracy in percent'."""
    if key.startswith('accuracy/top'):
        return f'top-{key[len("accuracy/top"):]} accuracy in percent'
    return key


def _set_common(cfg: Config, config_path: str, launcher: str, work_dir: str | None) -> None:
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or default_work_dir(config_path)
    if osp.exists(cfg.work_dir) and not osp.isdir(cfg.work_dir):
        raise LaunchError(f'--work-dir: {cfg.work_dir!r} is a file; give a directory')
    if cfg.get('default_scope') != 'mmpretrain':
        return
    # MMPretrain's preprocessor is fastest on stacked batches, and its own configs leave this to
    # the tool that reads them.
    for loader in LOADERS:
        if cfg.get(loader) is not None:
            cfg[loader].setdefault('collate_fn', ConfigDict(type='default_collate'))
            cfg[loader].setdefault('pin_memory', torch.cuda.is_available())
            cfg[loader].setdefault('persistent_workers', cfg[loader].get('num_workers', 0) > 0)


def _enable_amp(cfg: Config) -> None:
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise LaunchError(f"--amp works on optim_wrapper.type 'OptimWrapper', but the config has "
                          f'{kind!r}; set its precision in the config')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def _fit_to_machine(cfg: Config, training: bool = True) -> list[str]:
    """Undo in ``cfg`` what needs CUDA where there is none; return what was changed."""
    notes = []
    if has_accelerator():
        return notes
    for loader in LOADERS:
        if cfg.get(loader) is not None and not torch.cuda.is_available():
            cfg[loader]['pin_memory'] = False  # torch would warn about it once for each loader
    wrapper = cfg.get('optim_wrapper') or {}
    if wrapper.get('type') == 'AmpOptimWrapper':
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
        wrapper['type'] = 'OptimWrapper'
        if training:
            notes.append('No GPU here, and AmpOptimWrapper needs one: training in fp32 instead of '
                         'mixed precision.')
    if cfg.launcher != 'none':
        cfg.setdefault('model_wrapper_cfg', ConfigDict(
            type='MMDistributedDataParallel', broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False)))
        # On the CPU DDP wants None, and Runner would fill in [LOCAL_RANK].
        cfg.model_wrapper_cfg['device_ids'] = None
        notes.append('No GPU here: the processes talk through gloo on the CPU.')
        if _without_sync_bn(cfg.model) and training:
            notes.append('No GPU here, and SyncBN needs one: each process has BN, with statistics of its own images.')
    return notes


def _without_sync_bn(node: Any) -> bool:
    """Turn every SyncBN of a model's config into BN; return whether there was one.

    In a single process MMEngine does this itself.
    """
    if not isinstance(node, (dict, list, tuple)):
        return False
    here = isinstance(node, dict) and node.get('type') == 'SyncBN'
    if here:
        node['type'] = 'BN'
    below = [_without_sync_bn(value) for value in (node.values() if isinstance(node, dict) else node)]
    return here or any(below)


def _init_gloo(launcher: str) -> None:
    if launcher != 'pytorch':
        raise LaunchError(f"--launcher {launcher} needs a GPU here; without one use torchrun and "
                          '--launcher pytorch')
    missing = [key for key in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
               if key not in os.environ]
    if missing:
        raise LaunchError(f'--launcher pytorch: {", ".join(missing)} not set in the environment; '
                          'start through torchrun, or bash tools/dist_train.sh')
    torch.distributed.init_process_group(backend='gloo')
