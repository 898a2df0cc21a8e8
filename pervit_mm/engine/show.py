"""``tools/test.py --show-dir`` and ``--show``: predictions as pictures, drawn by each toolbox's own hook."""
import os.path as osp

from mmengine.config import Config, ConfigDict

from ..utils.errors import UserError
from ..utils.type_names import type_name

# The hook of each toolbox, and its argument that turns it on.
HOOKS = dict(mmpretrain=('PerViTVisualizationHook', 'enable'), mmdet=('DetVisualizationHook', 'draw'),
             mmseg=('SegVisualizationHook', 'draw'))
READABLE = 224  # pixels: text on a smaller image doesn't fit


def show_predictions(cfg: Config, folder: str | None = None, *, window: bool = False, interval: int = 1,
                     wait_time: float = 2.) -> str | None:
    """Let a test draw its predictions, in place.

    The hook's other settings stay those of the config, for example ``default_hooks.visualization.score_thr`` of a
    detector.

    Args:
        cfg (Config): Of any toolbox.
        folder (str, optional): Where pictures go. Defaults to None: nowhere.
        window (bool): Whether to show each picture in a window. Defaults to False.
        interval (int): Draw every so many images, in MMSegmentation batches. MMDetection draws all. Defaults to 1.
        wait_time (float): Seconds that each window stays. Defaults to 2.

    Returns:
        str | None: The folder that will have the pictures. MMSegmentation's are further down than ``folder``.

    Raises:
        UserError: If the toolbox has no such hook, or the options do not fit together.
    """
    scope = cfg.get('default_scope')
    if scope not in HOOKS:
        raise UserError(f'--show-dir and --show: default_scope is {scope!r}; only {", ".join(HOOKS)} draw predictions')
    if interval < 1:
        raise UserError(f'--interval {interval}: give 1 to draw every prediction, or more to skip some')
    if interval > 1 and scope == 'mmdet':
        raise UserError(f'--interval {interval}: the hook of MMDetection draws all images of a test; leave it out, or '
                        'test fewer with --cfg-options test_dataloader.dataset.indices=...')
    kind, switch = HOOKS[scope]
    if scope == 'mmpretrain':
        from .hooks import visualization_hook  # noqa: F401  registers it
    cfg.setdefault('default_hooks', ConfigDict())
    hook = cfg.default_hooks.setdefault('visualization', ConfigDict(type=kind))
    if type_name(hook) == 'VisualizationHook':
        hook.type = kind
    hook.update({switch: True, 'interval': interval, 'show': window})
    if window:
        hook.wait_time = wait_time
    if scope == 'mmpretrain':
        size = (cfg.model.get('backbone') or {}).get('img_size', READABLE)
        if min(size if isinstance(size, (list, tuple)) else [size]) < READABLE:
            hook.setdefault('resize', READABLE)
    if folder is None:
        return None
    folder = osp.abspath(folder)
    if scope == 'mmseg':  # its hook has no folder, and writes through the visualizer
        cfg.setdefault('visualizer', ConfigDict(type='SegLocalVisualizer'))
        cfg.visualizer.update(save_dir=folder, vis_backends=[dict(type='LocalVisBackend')])
        return osp.join(folder, 'vis_data', 'vis_image')
    hook['out_dir' if scope == 'mmpretrain' else 'test_out_dir'] = folder
    return folder
