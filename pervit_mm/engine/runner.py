"""MMEngine's runner, which resumes from whole files and takes no weights of another model."""
import re
from collections import OrderedDict
from typing import Any

import torch
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import OPTIMIZERS, RUNNERS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from mmengine.runner.checkpoint import _load_checkpoint
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoints import check_checkpoint, checkpoint_folders, find_resumable
from ..checkpoints.contents import drop_config
from ..checkpoints.taking import take_weights
from ..models.arch import check_type
from ..utils.errors import UserError
from ..utils.refusals import reading
from .hooks.broken_images_hook import PerViTBrokenImagesHook
from .hooks.preemption_hook import PerViTPreemptionHook
from .optimizers import fit_schedulers
from .preflight import building, check_length, check_run, told_builder
from .work_dir_lock import alone_in


@RUNNERS.register_module()
class PerViTRunner(Runner):
    """MMEngine's ``Runner`` with checks on what it loads.

    - Testing and resuming are strict: weights of another model are an error. MMEngine loads what fits and goes on.
    - ``load_from`` writes to the log, in one line, what was loaded and what was not. Nothing loaded is an error.
    - Resuming without a path takes the newest whole checkpoint of the work directory, see :func:`find_resumable`.
    - ``meta['config']`` of a checkpoint, which MMEngine would run as Python code, is dropped.
    - A second training in the same work directory is refused.
    - What cannot be built from a config, or would fail in the first iteration or at the first validation, is said in
      one sentence.
    - Checkpoints record how images were normalized, and their size. Weights that were trained with another
      normalization or size are loaded with a warning that names both.

    ``tools/train.py`` and ``tools/test.py`` use it. The toolboxes' own tools do where the config says
    ``runner_type = 'PerViTRunner'``, as the configs here do.
    """

    _strict = False

    # What the toolboxes say of an option that can't be, in one sentence.
    __init__ = told_builder(Runner.__init__, 'a part (such as env_cfg, randomness or log_level)')
    _init_model_weights = told_builder(Runner._init_model_weights, 'init_cfg of the model')
    build_model = told_builder(Runner.build_model, 'model')
    build_param_scheduler = told_builder(Runner.build_param_scheduler, 'param_scheduler')
    build_evaluator = told_builder(Runner.build_evaluator, 'val_evaluator or test_evaluator')
    build_val_loop = told_builder(Runner.build_val_loop, 'val_cfg or val_dataloader')
    build_test_loop = told_builder(Runner.build_test_loop, 'test_cfg or test_dataloader')
    build_visualizer = told_builder(Runner.build_visualizer, 'visualizer')
    register_hooks = told_builder(Runner.register_hooks, 'default_hooks or custom_hooks')

    def setup_env(self, env_cfg: dict) -> None:
        """Set up the environment as MMEngine does, and leave out attention by cuDNN.

        On Hopper torch prefers cuDNN's kernel in half precision where log Φp needs no gradient. It has had faults
        (pytorch issues 196678 and 191612), and makes a plan for each shape. ``env_cfg = dict(cudnn_attention=True)``
        allows it.
        """
        super().setup_env(env_cfg)
        torch.backends.cuda.enable_cudnn_sdp(bool(env_cfg.get('cudnn_attention', False)))

    def build_optim_wrapper(self, optim_wrapper):
        """Build the optimizer wrapper; an unknown optimizer is named, where MMEngine speaks of None."""
        optimizer = optim_wrapper.get('optimizer') if isinstance(optim_wrapper, dict) else None
        if isinstance(optimizer, dict):
            check_type(OPTIMIZERS, optimizer, 'optim_wrapper.optimizer')
        elif isinstance(optimizer, str):
            raise UserError(f"optim_wrapper.optimizer must be a dict with a type, got {optimizer!r}: give "
                            f'optim_wrapper.optimizer.type={optimizer}')
        with building('optim_wrapper'):
            return super().build_optim_wrapper(optim_wrapper)

    @staticmethod
    def build_dataloader(dataloader, *args, **kwargs) -> DataLoader:
        """Build a loader. Without workers, settings of workers are dropped, of which torch makes an error."""
        if isinstance(dataloader, dict) and not dataloader.get('num_workers'):
            dataloader = {key: value for key, value in dataloader.items()
                          if key not in ('persistent_workers', 'prefetch_factor')}
        return Runner.build_dataloader(dataloader, *args, **kwargs)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop of the training, as MMEngine does.

        Args:
            loop (BaseLoop | dict): The loop, or ``train_cfg``.

        Returns:
            BaseLoop: With at least one iteration.

        Raises:
            UserError: If it can't be built, or has no iteration.
        """
        with building('train_cfg or train_dataloader'):
            for hook in self.hooks:
                if isinstance(hook, PerViTBrokenImagesHook):
                    hook.watch(self, self._built_train_loader().dataset)
                if isinstance(hook, PerViTPreemptionHook):  # a loop by iteration starts the workers when it is built
                    hook.shield(self._built_train_loader())
            built = super().build_train_loop(loop)
        check_length(built)
        return built

    def _built_train_loader(self) -> DataLoader:
        """The loader of the training, built as the loop would build it."""
        if isinstance(self._train_dataloader, dict):
            self._train_dataloader = self.build_dataloader(
                self._train_dataloader, seed=self.seed,
                diff_rank_seed=self._randomness_cfg.get('diff_rank_seed', False))
        return self._train_dataloader

    def train(self) -> nn.Module:
        """Train, unless another training runs in the same work directory.

        Raises:
            UserError: If there is one, or as the hooks of the run do.
        """
        with alone_in(self.work_dir):
            return super().train()

    def test(self) -> dict[str, float]:
        """Test, with the weights of this model and no others."""
        self._strict = True
        return super().test()

    def val(self) -> dict[str, float]:
        """Validate, with the weights of this model and no others."""
        self._strict = True
        return super().val()

    def load_or_resume(self) -> None:
        """Load or resume; without a path from the newest whole checkpoint of the work directory."""
        if isinstance(self._train_loop, BaseLoop):
            check_run(self)
            for module in self.model.modules():
                if hasattr(module, 'pretrained_by'):  # init_cfg has been followed
                    self._compare_inputs(*module.pretrained_by)
        if self._resume and self._load_from is None and not self._has_loaded:
            # CheckpointHook has its out_dir as it was given until the loop starts.
            folders = [folder for hook in self.hooks if isinstance(hook, CheckpointHook)
                       for folder in checkpoint_folders(self.work_dir, hook.out_dir)]
            path, note = find_resumable(self.work_dir, folders)
            if note:
                self.logger.warning(note)
            self._load_from, self._resume = path, path is not None
        super().load_or_resume()

    def resume(self, filename: str, *args, **kwargs) -> None:
        """Resume, strictly.

        Raises:
            UserError: If the checkpoint has no state of a run, is of another model or optimizer, or nothing is left to
                train.
        """
        check_checkpoint(filename, '--resume')
        before, self._strict = self._strict, True
        try:
            super().resume(filename, *args, **kwargs)
        except ValueError as error:
            if 'loaded state dict' not in str(error):
                raise
            raise UserError(f"--resume: the optimizer of '{filename}' is not that of this config ({error}): resume "
                            'with the config of that run, or take its weights alone by load_from') from error
        finally:
            self._strict = before
        schedulers = self.param_schedulers or []
        for part in schedulers.values() if isinstance(schedulers, dict) else [schedulers]:
            fit_schedulers(part)
        loop = self.train_loop
        by_iteration = isinstance(loop, IterBasedTrainLoop)
        name, done = ('max_iters', loop.iter) if by_iteration else ('max_epochs', loop.epoch)
        if done >= getattr(loop, name):
            raise UserError(f"--resume: '{filename}' has {done} behind it and train_cfg.{name} is "
                            f'{getattr(loop, name)}, so there is nothing to train: raise train_cfg.{name}, or test it '
                            'by tools/test.py')
        if not by_iteration and loop.iter != done * len(loop.dataloader):
            self.logger.warning(
                f"--resume: the {done} epochs of '{filename}' had {loop.iter} iterations, and would have "
                f'{done * len(loop.dataloader)} here. The number of processes, the batch size or the number of images '
                'differs. Schedules that count iterations go on by the old epochs, so their learning rates will be '
                'off: resume with the old numbers, or start anew by load_from')

    def load_checkpoint(self, filename: str, map_location='cpu', strict: bool = False,
                        revise_keys: list = [(r'^module.', '')]) -> dict:
        """Load weights, see :class:`PerViTRunner`.

        Args:
            filename (str): Whatever MMEngine's loader takes.
            map_location: As ``torch.load`` takes it. Defaults to 'cpu'.
            strict (bool): Whether all weights have to fit, and no other may be there. Defaults to False; testing and
                resuming are strict anyway.
            revise_keys (list): (pattern, replacement) for the keys. Defaults to dropping ``module.``.

        Returns:
            dict: What the file holds.

        Raises:
            UserError: If it holds no weights, or not those of this model.
        """
        with reading(filename):
            checkpoint = _load_checkpoint(filename, map_location=map_location)
        if not isinstance(checkpoint, dict):
            raise UserError(f"'{filename}' holds a {type(checkpoint).__name__}, and a checkpoint is a dict")
        if drop_config(checkpoint):
            self.logger.warning(f"'{filename}' has meta['config'], which MMEngine would run as Python code: dropped")
        if self._resume and not {'meta', 'message_hub'} <= checkpoint.keys():
            raise UserError(f"--resume: '{filename}' holds weights and no state of a run (it may be a published or "
                            'converted checkpoint): start from it by load_from')
        self._compare_inputs(filename, checkpoint)
        if 'state_dict' not in checkpoint:  # a state dict alone, which MMEngine's EMAHook does not know
            checkpoint = dict(state_dict=checkpoint)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = self.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        state = checkpoint['state_dict']
        renamed = OrderedDict(state)
        for pattern, replacement in revise_keys:
            renamed = OrderedDict((re.sub(pattern, replacement, str(key)), value) for key, value in renamed.items())
        renamed._metadata = getattr(state, '_metadata', OrderedDict())  # versions of modules, by which they rename
        take_weights(model, renamed, filename, strict or self._strict, self.logger)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def save_checkpoint(self, out_dir: str, filename: str, *args, meta: dict | None = None, **kwargs) -> None:
        """Save as MMEngine does, with a record of how images are prepared.

        Args:
            out_dir (str): The folder.
            filename (str): Name of the file in it.
            *args: As MMEngine's method takes them.
            meta (dict, optional): More for ``meta``. Defaults to None.
            **kwargs: As MMEngine's method takes them; it refuses others.
        """
        from ..apis.inputs import KEY, inputs_of  # only runs need it, and `import pervit_mm` stays light
        super().save_checkpoint(out_dir, filename, *args, meta={KEY: inputs_of(self.cfg), **(meta or {})}, **kwargs)

    def _compare_inputs(self, filename: str, content: Any) -> None:
        """Warn if weights were trained on images that were prepared in another way."""
        from ..apis.inputs import inputs_of, recorded_inputs, tell_difference
        record = recorded_inputs(filename, content)
        words = record and tell_difference(filename, record, inputs_of(self.cfg))
        if words:
            self.logger.warning(words)
