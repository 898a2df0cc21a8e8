"""Checkpoints that a killed run cannot lose, and that cannot make the run remove anything else."""
import os
import re
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...checkpoints.contents import drop_config, non_finite_weights
from ...utils.atomic_write import replacing
from ...utils.errors import UserError

#: What a checkpoint is written as until it is whole; a dot hides it from ``epoch_*.pth`` and from readers.
PARTIAL = '.{}.partial'


@HOOKS.register_module()
class PerViTCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, which loses nothing when the process is killed.

    What differs:

    - A checkpoint is written beside its place, flushed to the disk and renamed. So a place only ever holds a whole
      file. ``last_checkpoint`` is written in the same way, after the checkpoint.
    - Old checkpoints are removed after the new one is recorded. With ``max_keep_ckpts=1`` there are two for a moment.
    - Only files in the folder of the checkpoints are removed, and only those with names that this hook gives. A resumed
      checkpoint names files to remove, and MMEngine removes whatever it names, folders too.
    - Weights that are not finite are never saved: training stops.
    - ``meta['config']`` of a checkpoint is dropped ahead of resuming: MMEngine would run it as Python code.

    Checkpoints that go to another place than the local disk are saved as MMEngine does.

    Args:
        interval (int): Epochs or iterations between checkpoints; -1 saves none. Defaults to -1.
        max_keep_ckpts (int): Checkpoints to keep; -1 keeps all. Defaults to -1.
        **kwargs: Other arguments of ``CheckpointHook``, which checks them.

    Raises:
        UserError: If ``interval`` or ``max_keep_ckpts`` is neither -1 nor positive. MMEngine takes 0 as -1.

    Examples:
        >>> default_hooks = dict(checkpoint=dict(type='PerViTCheckpointHook', interval=1, max_keep_ckpts=3))
    """

    def __init__(self, interval: int = -1, max_keep_ckpts: int = -1, **kwargs) -> None:
        for name, value in (('interval', interval), ('max_keep_ckpts', max_keep_ckpts)):
            if type(value) is not int or not (value == -1 or value > 0):
                raise UserError(f'{name} of the checkpoint hook must be -1 or a positive integer, got {value!r}')
        super().__init__(interval, max_keep_ckpts=max_keep_ckpts, **kwargs)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Drop what MMEngine would run as code."""
        if drop_config(checkpoint):
            runner.logger.warning("the checkpoint has meta['config'], which MMEngine would run as Python code: it is "
                                  'dropped. The config of this run is the one that was given')

    def before_train(self, runner: Runner) -> None:
        """Prepare, after forgetting what a resumed checkpoint must not name."""
        info = runner.message_hub.runtime_info
        kept = info.get('keep_ckpt_ids')
        if kept is not None and not (isinstance(kept, list) and all(type(step) is int for step in kept)):
            runner.logger.warning(f'the checkpoint names {kept!r} as kept checkpoints, which are no numbers: forgotten')
            info.pop('keep_ckpt_ids')
        old = []
        if self.max_keep_ckpts > 0 and info.get('keep_ckpt_ids'):
            # MMEngine would remove those that are too many here, and folders of these names as well.
            old, info['keep_ckpt_ids'] = kept[:-self.max_keep_ckpts], kept[-self.max_keep_ckpts:]
        super().before_train(runner)
        if not self._is_local():
            return
        for step in old:
            self._remove(self.filename_tmpl.format(step))
        self._adopt_best(runner)
        if is_main_process():
            for partial in Path(self.out_dir).glob(PARTIAL.format('*.pth')):
                if self._is_own(partial.name[1:].removesuffix('.partial')):
                    partial.unlink()  # of a run that was killed while writing

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse weights that are not finite."""
        broken = non_finite_weights(checkpoint['state_dict'])
        if broken:
            more = f' and {len(broken) - 3} more' if len(broken) > 3 else ''
            raise UserError(f'the weights are not finite after iteration {runner.iter + 1} ({", ".join(broken[:3])}'
                            f'{more}), and nothing is saved. {last_good(runner)}')

    def _is_local(self) -> bool:
        return self.file_client_args is None and isinstance(self.file_backend, LocalBackend)

    def _is_own(self, name: str) -> bool:
        """Whether this hook gives such a name: ``epoch_3.pth``, or ``best_KEY_epoch_3.pth`` of one of its metrics."""
        step = re.escape(self.filename_tmpl).replace(r'\{\}', r'\d+')
        keys = '|'.join(re.escape(key.replace('/', '_')) for key in self.key_indicators) if self.save_best else ''
        # 'auto' stands for the first metric, whatever its name.
        keys = r'[^/\\]+' if keys == 'auto' else keys
        return bool(re.fullmatch(step, name) or (keys and re.fullmatch(f'best_(?:{keys})_{step}', name)))

    def _own_path(self, path: str | None) -> str | None:
        """The file of this hook that a recorded path means, in today's folder; None if it means another."""
        name = os.path.basename(path) if isinstance(path, str) else ''
        own = os.path.join(self.out_dir, name)
        return own if name and self._is_own(name) and os.path.isfile(own) else None

    def _adopt_best(self, runner: Runner) -> None:
        """Take over best checkpoints that a resumed checkpoint names, as far as they are this run's own."""
        if not self.save_best:
            return
        single = len(self.key_indicators) == 1
        for key in self.key_indicators:
            named = self.best_ckpt_path if single else self.best_ckpt_path_dict[key]
            own = self._own_path(named)
            if named is not None and own is None:
                runner.logger.warning(f'the checkpoint names {named!r} as the best one, and this run has no such '
                                      f'checkpoint in {self.out_dir}: it is left alone')
            self._set_best(runner, key, own)

    def _set_best(self, runner: Runner, key: str, path: str | None) -> None:
        if len(self.key_indicators) == 1:
            name, self.best_ckpt_path = 'best_ckpt', path
        else:
            name, self.best_ckpt_path_dict[key] = f'best_ckpt_{key}', path
        if path is None:
            runner.message_hub.runtime_info.pop(name, None)
        else:
            runner.message_hub.update_info(name, path)

    def _remove(self, path: str | None) -> None:
        """Remove a checkpoint of this hook; anything else is left alone."""
        own = self._own_path(path)
        if own is not None and is_main_process():
            os.remove(own)

    def _write(self, runner: Runner, filename: str, **kwargs) -> None:
        """Save so that ``filename`` only ever is a whole checkpoint."""
        partial = PARTIAL.format(filename)
        runner.save_checkpoint(self.out_dir, partial, backend_args=self.backend_args, **kwargs)
        if is_main_process():
            path = os.path.join(self.out_dir, partial)
            with open(path, 'r+b') as file:  # Windows flushes only what may be written
                os.fsync(file.fileno())
            os.replace(path, os.path.join(self.out_dir, filename))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save, record, then remove what is too old."""
        if not self._is_local():
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        # A list, since the deque of MMEngine would forget the oldest before it is removed.
        kept = [] if self.max_keep_ckpts < 1 else [i for i in self.keep_ckpt_ids if i != step] + [step]
        if kept:
            # All that are there while this file is written: a run killed behind it removes the oldest on resume.
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = os.path.join(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._write(runner, filename, save_optimizer=self.save_optimizer,
                    save_param_scheduler=self.save_param_scheduler, meta=meta, by_epoch=self.by_epoch, **self.args)
        if is_main_process():
            with replacing(os.path.join(runner.work_dir, 'last_checkpoint'), durable=True) as writer:
                writer.write(self.last_ckpt.encode())
        if kept:
            for old in kept[:-self.max_keep_ckpts]:
                self._remove(self.filename_tmpl.format(old))
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(kept[-self.max_keep_ckpts:])
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Save each metric's best, record it in the last checkpoint, then remove the best of before."""
        if not self.save_best or not self._is_local():
            super()._save_best_checkpoint(runner, metrics)
            return
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        time = runner.epoch if self.by_epoch else runner.iter
        meta, before = dict(epoch=runner.epoch, iter=runner.iter), []
        for key, rule in zip(self.key_indicators, self.rules):
            if key not in metrics:
                raise UserError(f'save_best={key!r} of the checkpoint hook is none of the metrics, which are '
                                f'{", ".join(metrics)}')
            single = len(self.key_indicators) == 1
            score_name = 'best_score' if single else f'best_score_{key}'
            best = runner.message_hub.runtime_info.get(score_name, self.init_value_map[rule])
            score = metrics[key]
            if score is None or not self.is_better_than[key](score, best):
                continue
            before.append(self.best_ckpt_path if single else self.best_ckpt_path_dict[key])
            filename = f'best_{key}_{self.filename_tmpl.format(time)}'.replace('/', '_')
            runner.message_hub.update_info(score_name, score)
            self._set_best(runner, key, os.path.join(self.out_dir, filename))
            self._write(runner, filename, save_optimizer=False, save_param_scheduler=False, meta=dict(meta),
                        by_epoch=False)
            runner.logger.info(f'The best checkpoint with {score:0.4f} {key} at {"epoch" if self.by_epoch else "iter"} '
                               f'{time} is saved to {filename}.')
        if before and self.last_ckpt is not None:
            # Again, so that it knows of the best checkpoints: a resumed run has to remove them in their time.
            self._save_checkpoint_with_step(runner, time, meta)
        now = {self.best_ckpt_path} if len(self.key_indicators) == 1 else set(self.best_ckpt_path_dict.values())
        for path in before:
            if path not in now:
                self._remove(path)


def last_good(runner: Runner) -> str:
    """Sentence on where a stopped run can go on from."""
    last = runner.message_hub.runtime_info.get('last_ckpt')
    if last and os.path.isfile(last):
        return f'The last good checkpoint is {last}, from which --resume goes on'
    return 'There is no checkpoint yet'
