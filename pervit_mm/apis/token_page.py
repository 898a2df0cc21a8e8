"""The page of demo/web_demo.py: an image in, and what the network sees at the token that was clicked."""
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
from mmcv.image import imwrite

from ..utils.errors import UserError, told
from .subject import Subject
from .token_view import TokenView, draw_image, maps_page, token_at, view_image

#: The page is served to this machine alone.
ADDRESS = '127.0.0.1'
#: Choices of heads come after this one.
_MEAN = -1
_STYLE = '''
#drop img, #shown img { width: 100%; object-fit: contain }
#drop img { image-rendering: pixelated } #shown img { cursor: crosshair }
'''


def import_gradio() -> ModuleType:
    """Gradio, imported here because it is an extra and takes a while to load, or UserError."""
    try:
        import gradio
    except ImportError as error:
        raise UserError(f'the page needs Gradio, which cannot be imported ({error}): pip install gradio, or the extra '
                        "with pip install -c constraints.txt '.[web]'") from error
    return gradio


def write_examples(subject: Subject, folder: str | Path, count: int = 8) -> list[str]:
    """Write images that a visitor can try: some of the test set, or a drawing where it is not there.

    Args:
        subject (Subject): The model whose test set is asked for.
        folder (str | Path): Must exist.
        count (int): Images of the test set. Defaults to 8.

    Returns:
        list[str]: The files.
    """
    try:
        pictures = subject.load(count=count).rgb()
    except UserError:  # the data are an option here, and the drawing is seen to be none of them
        shirt = np.array([[70, 40], [100, 52], [124, 52], [154, 40], [200, 92], [172, 116], [156, 100], [156, 196],
                          [68, 196], [68, 100], [52, 116], [24, 92]])
        pictures = [cv2.fillPoly(np.zeros((224, 224, 3), np.uint8), [shirt], (200, 190, 170))]
    paths = [str(Path(folder) / f'{number}.png') for number in range(len(pictures))]
    for picture, path in zip(pictures, paths):
        imwrite(picture[..., ::-1], path)
    return paths


def build_page(subject: Subject, examples: list[str]):
    """Build the page.

    Args:
        subject (Subject): A classifier with tokens on one grid.
        examples (list[str]): Image files to try. The page begins with the first one.

    Returns:
        gradio.Blocks: The page, not served yet. Each visitor has a view of their own.

    Raises:
        UserError: If Gradio is not installed, or the model cannot be shown, see :func:`view_image`.
    """
    gr = import_gradio()
    first = view_image(subject, examples[0])
    center = tuple(side // 2 for side in first.hw_shape)

    def show(view: TokenView, token: tuple[int, int], head: int) -> tuple:
        """What a choice of token or head changes."""
        return token, draw_image(view, token), maps_page(view, token, None if head == _MEAN else head)

    # Gradio runs one call of it at a time, so the recording of two visitors never meets in the model.
    def take(image: dict | None, token: tuple[int, int], head: int) -> tuple:
        if image is None:  # the old image was removed to make room
            return (gr.skip(), ) * 5
        try:
            view = view_image(subject, image['path'])
        except UserError as error:
            message = str(error).replace(image['path'], Path(image['path']).name)  # the folder is Gradio's
            raise gr.Error(message, duration=None, print_exception=False) from error
        if any(place >= side for place, side in zip(token, view.hw_shape)):
            token = tuple(side // 2 for side in view.hw_shape)
        return view, view.scores, *show(view, token, head)

    def click(view: TokenView, head: int, event: gr.SelectData) -> tuple:
        return show(view, token_at(view, *event.index), head)

    with gr.Blocks(title=f'{subject.name}: what it sees', analytics_enabled=False) as page:
        gr.Markdown(f'## What {subject.name} sees\nDrop an image. Then click a token in the picture beside it. The '
                    'maps show where each block looks from there.')
        view, token = gr.State(first), gr.State(center)
        with gr.Row():
            with gr.Column(min_width=240):
                gr.Markdown('**Your image**')
                drop = gr.Image(examples[0], sources=['upload', 'clipboard'], type='filepath', image_mode=None,
                                show_label=False, height=300, elem_id='drop', buttons=[])
            with gr.Column(min_width=240):
                gr.Markdown('**What the network sees:** click a token')
                # A label would lie over the top tokens.
                shown = gr.Image(draw_image(first, center), format='png', interactive=False, buttons=[],
                                 show_label=False, elem_id='shown')
            with gr.Column(min_width=240):
                gr.Markdown('**Prediction**')
                scores = gr.Label(first.scores, num_top_classes=5, show_label=False, elem_id='scores')
                heads = [('mean of all heads', _MEAN), *((f'head {number}', number) for number in range(first.heads))]
                head = gr.Dropdown(heads, value=_MEAN, label='Maps of', elem_id='head', interactive=True)
        gr.Examples(examples, drop, label='Images to try')
        maps = gr.HTML(maps_page(first, center), elem_id='maps')
        drawn = [token, shown, maps]
        # Without Gradio's preprocessing, which would open the file itself, and has its own words for one that is no
        # image. Its check that the file was uploaded comes before that.
        drop.change(take, [drop, token, head], [view, scores, *drawn], preprocess=False, show_progress='hidden')
        shown.select(click, [view, head], drawn, show_progress='hidden')
        head.change(show, [view, token, head], drawn, show_progress='hidden')
    return page


def serve(page, port: int | None = None, block: bool = True) -> str:
    """Serve a page to this machine alone, without any call to another one.

    Args:
        page (gradio.Blocks): Of :func:`build_page`.
        port (int, optional): Defaults to None, Gradio's: the first free one from 7860.
        block (bool): Whether to wait until the user stops the program. Defaults to True.

    Returns:
        str: The address of the page.

    Raises:
        UserError: If the port is taken, or not a number from 1 to 65535.
    """
    gr = import_gradio()
    if port is not None and port not in range(1, 65536):
        raise UserError(f'port (--port) must be a number from 1 to 65535, got {port!r}')
    fonts = dict(font=['system-ui', 'sans-serif'], font_mono=['monospace'])  # the default ones come from the network
    with told(f'port (--port) {port or "from 7860 on"} cannot be served: give another one'):
        _, address, _ = page.launch(
            server_name=ADDRESS, server_port=port, share=False, inbrowser=False, ssr_mode=False, pwa=False,
            mcp_server=False, enable_monitoring=False, footer_links=[], quiet=True, prevent_thread_lock=True,
            theme=gr.themes.Default(**fonts), css=_STYLE)
    if block:
        print(f'Open {address} in a browser on this machine. Ctrl-C ends it.', flush=True)
        page.block_thread()
    return address
