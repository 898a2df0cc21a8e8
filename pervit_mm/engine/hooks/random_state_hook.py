"""Save and restore the random generators, so that a resumed run repeats the undisturbed one."""


import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import DataLoader, IterableDataset

from ...utils.errors import UserTypeError
from .random_state import EpochSeed, SkippedBatches, get_generators, set_generators

CHECKPOINT_KEY = 'pervit_random_state'


@HOOKS.register_module()
class PerViTRandomStateHook(Hook):
    """Save the random generators with each checkpoint and restore them on resume.

    MMEngine saves no random state. A resumed run starts from its seed again, so Mixup (drawn in
    the main process from numpy and torch), DropPath (from torch) and random augmentation take
    another path than the run that was not interrupted. With this hook a run killed within an
    epoch, resumed from the last epoch's checkpoint, repeats the losses of the undisturbed run.

    Saved, under ``checkpoint['pervit_random_state']``: the states of Python's ``random``, of
    numpy's global generator, of torch's CPU generator and of every visible CUDA device, from *all*
    ranks, and the training sampler's seed. Tensors, numbers, strings and lists only, so that
    ``torch.load(weights_only=True)`` reads it.

    **By epoch.** The state is taken when the training part of an epoch ends, and set again when
    the next epoch starts, before its data iterator is made, in the resumed *and* in the
    undisturbed run. So whatever comes between (validation, its data loader, saving, other hooks)
    draws nothing from training's stream: it makes no difference whether a checkpoint is saved
    before or after validation, or whether the resumed run validates at all. Data order comes from
    the sampler's seed and the epoch; that seed is restored too, for a config without a fixed one.
    A checkpoint from the middle of an epoch (``by_epoch=False`` in an epoch-based loop) can't be
    repeated: MMEngine resumes it at the epoch's first batch.

    **By iteration.** MMEngine resumes by reading and dropping as many batches as were used. The
    state is taken when a checkpoint is saved or validation begins, set again after validation, and
    on resume set after the last dropped batch. Workers replay their stream along with the dropped
    batches. The data iterator exists before the checkpoint is read, so data order repeats only
    with a fixed seed in the config (``randomness = dict(seed=0)``); the hook warns otherwise.

    **Workers.** MMEngine seeds a worker once, with ``num_workers * rank + worker_id + seed``, when
    it starts. Workers that are started for each epoch therefore use the same random numbers in
    every epoch. Persistent workers (``persistent_workers=True``, common in the toolboxes' configs)
    carry their generators on from epoch to epoch, a state that only they have: after a resume they
    start as in the first epoch. With ``reseed_workers=True`` the hook seeds the workers of an
    epoch-based loop at every epoch, from a number drawn from torch's generator in the main process
    together with rank and worker. Then each epoch has random numbers of its own, a resumed epoch
    has those of the undisturbed run, and persistent or not makes no difference. With
    ``reseed_workers=False`` a run repeats without workers and with workers that don't persist;
    with persistent workers it doesn't, and the hook says so.

    If the number of processes differs on resume, or the checkpoint has no random state, the hook
    warns and leaves the fresh seeds. It does nothing after ``load_from`` without ``resume``. A
    sampler or transform with a generator object of its own is not covered. A loader that is none of
    torch's may have no ``num_workers`` and no sampler: the hook then has nothing to seed there and
    saves the generators of the processes alone. Equal losses also need
    deterministic kernels: given on the CPU with the same number of threads; for CUDA see
    ``randomness = dict(seed=0, deterministic=True)``.

    Args:
        reseed_workers (bool): Whether to seed data-loading workers anew in every epoch.
            Defaults to True.

    Examples:
        >>> custom_hooks = [dict(type='PerViTRandomStateHook')]
    """

    # After hooks that act on a finished epoch, before CheckpointHook (VERY_LOW) writes its file.
    priority = 'LOW'

    def __init__(self, reseed_workers: bool = True) -> None:
        if not isinstance(reseed_workers, bool):
            raise UserTypeError(
                f'reseed_workers must be True or False, got {reseed_workers!r}. Use True to let '
                'runs with persistent workers repeat after a resume.')
        self.reseed_workers = reseed_workers
        self._training = False
        self._loaded = None  # (position, state) of a checkpoint that was read
        self._own = None  # this rank's generators at the end of the last epoch or iteration
        self._ranks = None  # the same of all ranks
        self._warned = False

    def before_train(self, runner) -> None:
        """Remember that hooks are called by training, not by a validation of its own."""
        self._training = True

    def after_train(self, runner) -> None:
        """Forget it."""
        self._training = False

    def before_train_epoch(self, runner) -> None:
        """Set the generators: from a resumed checkpoint, or to where the last epoch ended."""
        loaded, self._loaded = self._loaded, None
        # Only a resumed runner stands where its checkpoint was saved; load_from starts at (0, 0).
        if loaded and (runner.epoch, runner.iter) == loaded[0] != (0, 0):
            self._resume(runner, loaded[1])
        elif self._own is not None:
            set_generators(self._own)
        self._own = self._ranks = None
        if not _by_iteration(runner):
            self._seed_workers(runner)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Drop a state that training has left behind."""
        self._own = self._ranks = None

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Take the state if a checkpoint is due after this iteration.

        All ranks must take part in collecting it, but ``before_save_checkpoint`` runs on the first
        alone. Collecting after every iteration would be slow, so the checkpoint hooks are asked.
        """
        for hook in runner.hooks:
            if (isinstance(hook, CheckpointHook) and not hook.by_epoch and
                (hook.every_n_train_iters(runner, hook.interval, hook.save_begin) or
                 (hook.save_last and hook.is_last_train_iter(runner)))):
                self.capture()
                return

    def after_train_epoch(self, runner) -> None:
        """Take the state at the end of the epoch's training part."""
        if not _by_iteration(runner):
            self.capture()

    def before_val(self, runner) -> None:
        """Take the state before a validation interrupts training by iteration."""
        if self._training and _by_iteration(runner) and self._own is None:
            self.capture()

    def after_val(self, runner) -> None:
        """Go on as if there had been no validation."""
        if self._training and _by_iteration(runner) and self._own is not None:
            set_generators(self._own)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Put the state into the checkpoint."""
        ranks = self._ranks
        if ranks is None:
            # Saved at a moment of someone else's choice. Other ranks don't take part in this call.
            if get_world_size() > 1:
                runner.logger.warning(
                    'PerViTRandomStateHook: a checkpoint is saved outside of a CheckpointHook, '
                    f'with {get_world_size()} processes. It gets no random state.')
                return
            ranks = [get_generators()]
        checkpoint[CHECKPOINT_KEY] = dict(
            ranks=ranks, sampler_seed=getattr(_sampler(runner.train_dataloader), 'seed', None))

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keep the state for later: the resume goes on, and may seed the generators again."""
        meta = checkpoint.get('meta', {})
        self._loaded = ((meta.get('epoch'), meta.get('iter')), checkpoint.get(CHECKPOINT_KEY))

    def capture(self) -> None:
        """Take the state of all ranks for a checkpoint that is saved next; all ranks have to call it."""
        self._own = get_generators()
        self._ranks = ([self._own] if get_world_size() == 1 else all_gather_object(self._own))

    def _resume(self, runner, state: dict | None) -> None:
        if state is None:
            runner.logger.warning(
                'PerViTRandomStateHook: the checkpoint holds no random state (it was saved without '
                'this hook). The generators keep their fresh seeds; losses will differ from those '
                'of an undisturbed run.')
            return
        if len(state['ranks']) != get_world_size():
            runner.logger.warning(
                f'PerViTRandomStateHook: the checkpoint holds the random state of '
                f'{len(state["ranks"])} processes, this run has {get_world_size()}. The generators '
                'keep their fresh seeds.')
            return

        def restore():
            if not set_generators(state['ranks'][get_rank()]):
                runner.logger.warning(
                    'PerViTRandomStateHook: the number of CUDA devices differs from that of the '
                    'checkpoint. Their generators keep their fresh seeds.')

        sampler = _sampler(runner.train_dataloader)
        seed = getattr(sampler, 'seed', None)
        if not _by_iteration(runner):
            if seed != state['sampler_seed'] and None not in (seed, state['sampler_seed']):
                sampler.seed = state['sampler_seed']
            restore()
            return
        if seed != state['sampler_seed']:
            runner.logger.warning(
                f'PerViTRandomStateHook: the sampler of the resumed run has seed {seed}, that of '
                f'the checkpoint {state["sampler_seed"]}, and its first batches are already read. '
                'Data order will differ. Fix the seed in the config: '
                f'randomness = dict(seed={state["sampler_seed"]}).')
        loop = runner.train_loop
        if getattr(loop, 'fast_forward_on_resume', False):
            # An option of onedl-mmengine: no batch is dropped, so none is the last. The loop itself warns.
            restore()
            return
        iterator = loop.dataloader_iterator

        def done():
            loop.dataloader_iterator = iterator
            restore()

        loop.dataloader_iterator = SkippedBatches(iterator, runner.iter, done)

    def _seed_workers(self, runner) -> None:
        loader = runner.train_dataloader
        if not getattr(loader, 'num_workers', 0):
            return
        # The fetcher calls __getitems__ only for batches from a dataset with indices.
        possible = loader.batch_sampler is not None and not isinstance(
            loader.dataset, IterableDataset)
        if loader.persistent_workers and not (self.reseed_workers and possible):
            if not self._warned:
                runner.logger.warning(
                    'PerViTRandomStateHook: persistent workers carry random states from epoch to '
                    'epoch that are not in the checkpoint. A resumed run will augment differently. '
                    'Use reseed_workers=True with a batched map-style dataset, or '
                    'persistent_workers=False.')
                self._warned = True
        elif self.reseed_workers:
            if not isinstance(loader.worker_init_fn, EpochSeed):
                loader.worker_init_fn = EpochSeed(loader.worker_init_fn, get_rank(),
                                                   loader.persistent_workers)
            seed = torch.randint(1, 2**62, ()).item()
            loader.worker_init_fn.shared[0] = seed
            # Starting workers draws a number, keeping them does not. It must not come from the
            # stream of training, or a run that starts them in a later epoch leaves it.
            loader.generator = torch.Generator().manual_seed(seed)


def _sampler(loader: DataLoader):
    # MMDetection's batch samplers wrap the one that has the seed.
    batch_sampler = getattr(loader, 'batch_sampler', None)
    for sampler in (getattr(loader, 'sampler', None), getattr(batch_sampler, 'sampler', None)):
        if hasattr(sampler, 'seed'):
            return sampler
    return None


def _by_iteration(runner) -> bool:
    return isinstance(runner.train_loop, IterBasedTrainLoop)
