#!/usr/bin/env python
"""A page on this machine: drop an image, click a token, and see the prediction and Φp, Φc and Φa of every block there.

    python demo/web_demo.py
    python demo/web_demo.py CONFIG CHECKPOINT --port 8000

It needs Gradio: pip install -c constraints.txt '.[web]'. The page is served on 127.0.0.1 alone. Neither the page nor
the server calls another machine.
"""
import argparse
import os
import sys
import tempfile

import pervit_mm  # noqa: F401  registers everything
from pervit_mm.apis.named_models import models_by_name
from pervit_mm.apis.subject import open_subject
from pervit_mm.apis.token_page import build_page, import_gradio, serve, write_examples
from pervit_mm.utils.errors import UserError


def main(argv=None) -> None:
    """Read the command line, build the page and serve it until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog=f'models by name: {", ".join(models_by_name())}')
    parser.add_argument('model', nargs='?', default='pervit_nano_fashion-mnist',
                        help='name of a classifier, or path of a config; default %(default)s')
    parser.add_argument('weights', nargs='?', metavar='checkpoint',
                        help='needed with a config, and for a model that has none')
    parser.add_argument('--port', type=int, help='default the first free one from 7860')
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: a GPU where there is one)')
    args = parser.parse_args(argv)
    try:
        import_gradio()  # ahead of the model, which takes longer
        subject = open_subject(args.model, args.weights, args.device)
        with tempfile.TemporaryDirectory() as folder:
            os.environ['GRADIO_TEMP_DIR'] = folder  # so that uploaded images are deleted at the end
            serve(build_page(subject, write_examples(subject, folder)), args.port)
    except UserError as error:
        sys.exit(f'demo/web_demo.py: {error}')


if __name__ == '__main__':
    main()
