"""Make one config run on the machine at hand.

MMEngine's Runner takes CUDA for granted in three places: AmpOptimWrapper, the process group and the device ids of DDP.
"""
import atexit
import gc
import os
from datetime import timedelta
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import is_cuda_available, is_mlu_available, is_musa_available, is_npu_available

from ..utils.errors import UserError
from ..utils.type_names import type_name

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def has_accelerator() -> bool:
    """Whether this machine has a device that AmpOptimWrapper accepts."""
    return (is_cuda_available() or is_npu_available() or is_mlu_available()
            or is_musa_available())


def fit_to_machine(cfg: Config, training: bool = True) -> list[str]:
    """Undo in ``cfg`` what needs CUDA where there is none; return what was changed."""
    notes = []
    if has_accelerator():
        return notes
    for loader in LOADERS:
        if cfg.get(loader) is not None and not torch.cuda.is_available():
            cfg[loader]['pin_memory'] = False  # torch would warn about it once for each loader
    wrapper = cfg.get('optim_wrapper') or {}
    if type_name(wrapper) == 'AmpOptimWrapper':
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
    here = isinstance(node, dict) and type_name(node) in ('SyncBN', 'SyncBatchNorm')
    if here:
        node['type'] = 'BN'
    below = [_without_sync_bn(value) for value in (node.values() if isinstance(node, dict) else node)]
    return here or any(below)


def init_gloo(launcher: str, timeout: float | None = None) -> None:
    """Open a process group that needs no GPU.

    Args:
        launcher (str): Who started the processes; only 'pytorch' works without a GPU.
        timeout (float, optional): Seconds that a process waits for the others before it gives up. Defaults to None,
            PyTorch's half an hour.

    Raises:
        UserError: If the launcher can't start here, or its variables are missing.
    """
    if launcher != 'pytorch':
        raise UserError(f"--launcher {launcher} needs a GPU here; without one use torchrun and "
                        '--launcher pytorch')
    missing = [key for key in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
               if key not in os.environ]
    if missing:
        raise UserError(f'--launcher pytorch: {", ".join(missing)} not set in the environment; '
                        'start through torchrun, or bash tools/dist_train.sh')
    limit = {} if timeout is None else dict(timeout=timedelta(seconds=timeout))
    torch.distributed.init_process_group(backend='gloo', **limit)
    atexit.register(_close_group)


def _close_group() -> None:
    """End the threads of gloo ahead of Python's own end.

    A thread that still holds a tensor then would abort a run that has finished, with code -6. The threads end with the
    last reference to their group, which DDP has. A runner is part of a cycle, so it takes a collection to drop that.
    """
    gc.collect()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
