#!/usr/bin/env python
"""Draw what hidden units of a feed-forward network respond to: an image made for each, beside the top images of a set.

    python tools/analysis_tools/maximise.py pervit_nano_fashion-mnist --block 3 --out units.png
    python tools/analysis_tools/maximise.py configs/pervit_tiny.py --weights tiny.pth --units 3 170 --steps 128

Each row belongs to one unit. The first image was changed step by step until the unit is as active as it gets (Ghiasi et
al. 2022). The others are the images of the config's test set that activate the unit most. The number above an image is
the activation of the unit by it, on average over the tokens. Images of 224 pixels take minutes a unit without a GPU.
"""
import argparse
import sys

import cv2
import numpy as np
import torch
from mmengine.utils import ProgressBar

import pervit_mm  # noqa: F401  registers everything
from pervit_mm.analysis.maximization import choose_units, draw_units, maximize, unit_activations
from pervit_mm.apis.subject import Images, Subject, open_subject
from pervit_mm.utils.atomic_write import replacing
from pervit_mm.utils.errors import UserError

#: Images of the set in a row, and how many run at once.
TOP, BATCH = 5, 16


def parse_args(argv=None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='name of a model of the zoo, or config file')
    parser.add_argument('--weights', metavar='FILE', help='checkpoint; it must be given for a config')
    parser.add_argument('--block', type=int, default=-1, help='number of the block; default -1, the last one')
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument('--units', type=int, nargs='+', metavar='UNIT', help='numbers of hidden units')
    chosen.add_argument('--count', type=int, default=4, help='or how many units, at equal distances; default 4')
    parser.add_argument('--steps', type=int, default=400, help='steps for each unit; default 400')
    parser.add_argument('--images', type=int, default=64,
                        help='images of the test set that the top ones are taken from; default 64')
    parser.add_argument('--seed', type=int, default=0, help='default 0')
    parser.add_argument('--device', help='such as cpu or cuda:0; default a GPU if there is one')
    parser.add_argument('--out', default='units.png', metavar='PNG', help='picture to write; default units.png')
    args = parser.parse_args(argv)
    if not args.out.lower().endswith('.png'):
        parser.error(f'--out must end in .png, got {args.out}')
    if not 0 <= args.seed < 2**63:
        parser.error(f'--seed must be from 0 to 2^63 - 1, got {args.seed}')
    if args.steps < 1:
        parser.error(f'--steps must be at least 1, got {args.steps}')
    return args


def make_picture(subject: Subject, args: argparse.Namespace) -> np.ndarray:
    """Maximize each unit and draw the rows. RGB ``(height, width, 3)``, uint8."""

    def activations(pixels):
        return unit_activations(subject.model, subject.normalize(pixels), args.block)

    loaded = subject.load(count=args.images)
    with torch.no_grad():
        of_set = torch.cat([activations(pixels) for pixels in loaded.pixels.split(BATCH)])
    units = choose_units(of_set.shape[1], args.units, args.count)
    noise = torch.rand(loaded.pixels.shape[1:], generator=torch.Generator().manual_seed(args.seed)).to(loaded.pixels)
    bar = ProgressBar(len(units) * args.steps, file=sys.stdout)
    images, values = [], []
    for unit in units:

        def activation(pixels, unit=unit):
            return activations(255 * pixels)[:, unit]

        made = maximize(activation, noise, args.steps, seed=args.seed, callback=lambda step, value: bar.update())[None]
        best = of_set[:, unit].topk(min(TOP, len(of_set)))
        with torch.no_grad():
            values.append(torch.cat([activation(made), best.values]).cpu().numpy())
        images.append(Images(torch.cat([255 * made, loaded.pixels[best.indices]]), None, [], []).rgb())
    return draw_units(units, np.stack(images), np.stack(values))


def main(argv=None) -> None:
    """Make the picture and write it."""
    args = parse_args(argv)
    try:
        with replacing(args.out) as file:  # a folder that isn't there is told before the work
            picture = make_picture(open_subject(args.model, args.weights, args.device), args)
            file.write(cv2.imencode('.png', picture[..., ::-1])[1].tobytes())
    except UserError as error:
        sys.exit(f'tools/analysis_tools/maximise.py: {error}')
    print(f'\n{args.out}: {picture.shape[1]} x {picture.shape[0]} pixels')


if __name__ == '__main__':
    main()
