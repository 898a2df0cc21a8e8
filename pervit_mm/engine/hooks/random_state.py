"""The random generators of a process and of its data-loading workers."""

import random
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import get_worker_info


def get_generators() -> dict:
    """State of this process's generators, as tensors, numbers and lists only.

    Returns:
        dict: ``python``, ``numpy``, ``torch`` and ``cuda`` (one tensor per visible device).
    """
    version, words, gauss = random.getstate()
    legacy = np.random.get_state(legacy=False)
    return dict(
        python=dict(version=version, words=torch.tensor(words), gauss=gauss),
        numpy=dict(
            name=legacy['bit_generator'],
            key=torch.from_numpy(legacy['state']['key'].astype(np.int64)),
            pos=int(legacy['state']['pos']),
            has_gauss=int(legacy['has_gauss']),
            gauss=float(legacy['gauss'])),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])


def set_generators(state: dict) -> bool:
    """Put this process's generators into a state from :func:`get_generators`.

    Args:
        state (dict): As it was returned, or read from a checkpoint.

    Returns:
        bool: False if the number of CUDA devices differs: those generators are left alone.
    """
    python, legacy = state['python'], state['numpy']
    random.setstate((python['version'], tuple(python['words'].tolist()), python['gauss']))
    np.random.set_state((legacy['name'], legacy['key'].cpu().numpy().astype(np.uint32),
                         legacy['pos'], legacy['has_gauss'], legacy['gauss']))
    # resume() may have moved the tensors to the GPU; generators take their state from the CPU.
    torch.set_rng_state(state['torch'].cpu())
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if len(state['cuda']) != devices:
        return False
    if devices:
        torch.cuda.set_rng_state_all([part.cpu() for part in state['cuda']])
    return True


class EpochSeed:
    """A ``worker_init_fn`` that seeds a data-loading worker anew in every epoch.

    A worker that lives for one epoch is seeded when it starts. One that persists has no such moment
    in later epochs, so its copy of the dataset gets a ``__getitems__`` (what PyTorch's fetcher
    calls for a batch) that looks at the epoch's seed in shared memory first. The dataset of the
    main process is not touched.

    Args:
        first (Callable, optional): The loader's own ``worker_init_fn``, called before.
        rank (int): Rank of this process.
        persistent (bool): Whether the workers outlive an epoch.
    """

    def __init__(self, first: Callable | None, rank: int, persistent: bool) -> None:
        self.first = first
        self.rank = rank
        self.persistent = persistent
        self.shared = torch.zeros(1, dtype=torch.int64).share_memory_()
        self.seen = None

    def __call__(self, worker_id: int) -> None:
        if self.first is not None:
            self.first(worker_id)
        self._follow(worker_id)
        if self.persistent:
            dataset = get_worker_info().dataset
            batch = getattr(dataset, '__getitems__', None)

            def getitems(indices):
                self._follow(worker_id)
                return batch(indices) if batch else [dataset[index] for index in indices]

            dataset.__getitems__ = getitems

    def _follow(self, worker_id: int) -> None:
        seed = self.shared.item()
        if seed != self.seen:
            self.seen = seed
            words = np.random.SeedSequence([seed, self.rank, worker_id]).generate_state(4)
            np.random.seed(words)
            random.seed(words.tobytes())
            torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


class SkippedBatches:
    """Stands before an iteration-based loop's data iterator while a resumed run skips batches.

    Args:
        iterator (Iterator): The loop's own iterator.
        count (int): How many batches the loop will skip.
        done (Callable): Called once, right after the last of them.
    """

    def __init__(self, iterator, count: int, done: Callable) -> None:
        self.iterator = iterator
        self.left = count
        self.done = done

    def __iter__(self):
        return self

    def __next__(self):
        batch = next(self.iterator)
        self.left -= 1
        if self.left == 0:
            self.done()
        return batch

    def skip_iter(self, num_iters: int) -> None:
        """Read and drop batches, for the loop of onedl-mmengine, which asks its iterator to skip them all at once.

        That iterator moves the sampler alone. Then its workers would not repeat their random numbers, and it would draw
        their seed only after the state is restored.
        """
        for _ in range(num_iters):
            next(self)

    def __getattr__(self, name: str):
        return getattr(self.iterator, name)
