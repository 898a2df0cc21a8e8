"""Reading the images of a training, broken ones among them."""
import os
from pathlib import Path

from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS

from ..utils.errors import UserError
from ..utils.image_header import size_within

#: What a training reads at most, in pixels; a file's header tells.
MAX_PIXELS = 178_956_970


@TRANSFORMS.register_module()
class PerViTLoadImageFromFile(LoadImageFromFile):
    """MMCV's ``LoadImageFromFile``, which names a broken image, or passes it over.

    MMCV hands on None for a file of zero bytes, and some later transform fails without its name.

    Args:
        skip_broken (bool): Whether another image is taken in place of a broken one; MMEngine's data sets do that in
            training. :class:`pervit_mm.engine.PerViTBrokenImagesHook` counts and names them at the end. Defaults to
            False, which stops at the first.
        **kwargs: Arguments of ``LoadImageFromFile``.

    Raises:
        UserError: While loading, with the path, if an image can't be read and ``skip_broken`` is False.

    Examples:
        >>> train_pipeline = [dict(type='PerViTLoadImageFromFile', skip_broken=True)]
    """

    #: File that paths of broken images are appended to, by all workers; set by the hook.
    report: str | None = None

    def __init__(self, *args, skip_broken: bool = False, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.skip_broken = skip_broken

    def transform(self, results: dict) -> dict | None:
        """Load the image of ``results['img_path']``.

        Args:
            results (dict): With ``img_path``.

        Returns:
            dict, optional: With ``img`` and its shapes; None for a broken image that is passed over.
        """
        path = results['img_path']
        try:
            if os.path.isfile(path):  # files of other backends are not looked at
                size_within(path, MAX_PIXELS)
            loaded = super().transform(results)
            if loaded is None or loaded.get('img') is None:
                raise ValueError('it is empty, or no image')
            return loaded
        except Exception as error:  # each decoder has its own
            reason = str(error).splitlines()[0] if str(error).strip() else type(error).__name__
            if not self.skip_broken:
                raise UserError(f"image '{path}' cannot be read ({reason}): repair or remove it, or set "
                                'skip_broken=True in PerViTLoadImageFromFile') from error
            if self.report is not None:
                # One write of a short line: lines of several workers don't mix.
                with open(self.report, 'a') as file:
                    file.write(f'{path}\n')
            return None


def broken_images(report: str | Path) -> list[str]:
    """Paths in a report, each once, sorted; none without a file."""
    path = Path(report)
    return sorted(set(path.read_text().splitlines())) if path.is_file() else []
