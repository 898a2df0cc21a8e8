#!/usr/bin/env python
"""Classify, detect or segment images of a file, a folder or a pattern, with a published model or one of your own.

    python demo/image_demo.py IMAGES MODEL --out-dir OUT
    python demo/image_demo.py 'shots/**/*.jpg' mask-rcnn_pervit-nano_fashion-scenes
    python demo/image_demo.py shots configs/pervit_tiny.py --weights work_dirs/pervit_tiny/epoch_300.pth
    python demo/image_demo.py shots pervit-tiny_3rdparty_in1k --weights converted.pth

Pictures go to OUT/vis, label maps to OUT/labels, and predictions to OUT/predictions.json. A file that cannot be read
does not stop the others. All such files are named at the end, and the exit code is 1.
"""
import argparse
import sys

from pervit_mm.apis.images import find_images
from pervit_mm.apis.inference import ImagePredictor, predict_images
from pervit_mm.apis.named_models import models_by_name
from pervit_mm.utils.errors import UserError


def main(argv=None) -> None:
    """Read the command line, predict, and say where the results are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog=f'models by name: {", ".join(models_by_name())}')
    parser.add_argument('images', help='image file, folder, or pattern in quotes')
    parser.add_argument('model', help='name of a model, or path of a config')
    parser.add_argument('--weights', help='checkpoint; needed with a config, and for a model that has none')
    parser.add_argument('--out-dir', default='outputs', help='folder of the results (default outputs)')
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: a GPU where there is one)')
    parser.add_argument('--score-thr', type=float, default=0.3,
                        help='detections below it, from 0 to 1, are left out (default 0.3)')
    args = parser.parse_args(argv)
    try:
        images = find_images(args.images)
        predictor = ImagePredictor(args.model, args.weights, args.device)
        results = predict_images(predictor, images, args.out_dir, args.score_thr)
    except UserError as error:
        sys.exit(f'demo/image_demo.py: {error}')
    print(f'{len(results)} images: pictures in {args.out_dir}/vis, predictions in {args.out_dir}/predictions.json')


if __name__ == '__main__':
    main()
