"""What reading and augmenting an image costs a processor core, step by step."""
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from mmengine.registry import FUNCTIONS, TRANSFORMS, init_default_scope
from PIL import Image

from ..apis.configs import load_config
from ..checkpoints import package_root
from .settings import Rows, Settings

#: Height and width of the most common image of ImageNet.
SIZE = (375, 500)
#: How the spectrum of an image falls with frequency, and how strong its brightness and its colors vary. An image is
#: then about as large on disk as one of ImageNet, 110 kB.
FALL, BRIGHTNESS, COLOR = 1.15, 55., 18.
IMAGES = 64


def draw_photo(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Noise with the spectrum of a photograph, which costs a JPEG decoder what a photograph costs it.

    Args:
        rng (np.random.Generator): The random generator.
        size (tuple[int, int]): Height and width in pixels. Defaults to :data:`SIZE`.

    Returns:
        np.ndarray: RGB pixels ``(height, width, 3)``, uint8.
    """
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1]))
    frequency[0, 0] = np.inf  # no constant part: the mean is added below

    def field() -> np.ndarray:
        phases = np.exp(2j * np.pi * rng.random(frequency.shape))
        values = np.fft.irfft2(phases * frequency**-FALL, s=size)
        return values / values.std()

    light = BRIGHTNESS * field()
    return np.stack([120 + light + COLOR * field() for _ in range(3)], -1).clip(0, 255).astype(np.uint8)


def loader(settings: Settings, oracle: ModuleType, images: int = IMAGES,
           clock: Callable[[], float] = time.process_time) -> Rows:
    """The pipelines of ``configs/pervit_tiny.py`` on drawn JPEG files, one image after the other.

    Times are those of the processor, so other work of the machine adds little to them.

    Args:
        settings (Settings): With ``repeats``, the turns over all images; figures are medians over them.
        oracle (ModuleType): Has no effect.
        images (int): How many images there are. Defaults to 64.
        clock (Callable): Returns the time in seconds. Defaults to ``time.process_time``.

    Returns:
        Rows: Milliseconds for each step of the training and of the test pipeline, and images/s for all of them.
    """
    import cv2  # here: `import pervit_mm` and the other suites do without
    init_default_scope('mmpretrain')
    cfg = load_config(package_root() / 'configs' / 'pervit_tiny.py')
    cv2.setNumThreads(0)  # as in a worker
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    rows: Rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f'{i}.JPEG' for i in range(images)]
            for path in paths:
                Image.fromarray(draw_photo(rng)).save(path, quality=90)
            kilobytes = sum(path.stat().st_size for path in paths) / 1000 / images
            for name, settings_of in (('training', cfg.train_dataloader), ('test', cfg.val_dataloader)):
                turns = [_turn(paths, settings_of, clock) for _ in range(1 + settings.repeats)][1:]
                steps = {step: statistics.median(turn[step] for turn in turns) for step in turns[0]}
                total = statistics.median(sum(turn.values()) for turn in turns)
                for step, seconds in {**steps, 'all': total}.items():
                    rows.append({'pipeline': name, 'step': step, 'ms': f'{1000 * seconds / images:.2f}',
                                 'share': f'{100 * seconds / total:.0f} %',
                                 'images/s': f'{images / seconds:.0f}' if step == 'all' else '',
                                 'kB': f'{kilobytes:.0f}'})
    finally:
        torch.set_num_threads(threads)
    return rows


def _turn(paths: list[Path], settings: dict, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of each step over all images."""
    steps = {step['type']: TRANSFORMS.build(step) for step in settings['dataset']['pipeline']}
    collate = FUNCTIONS.get(settings['collate_fn']['type'])
    spent: dict[str, float] = defaultdict(float)
    batch = []
    for path in paths:
        results = dict(img_path=str(path), gt_label=0)
        for name, step in steps.items():
            start = clock()
            results = step(results)
            spent[name] += clock() - start
        batch.append(results)
    start = clock()
    collate(batch)
    spent['collation'] = clock() - start
    return spent
