"""What the maps of attention at a token must look like: found from capture() and matplotlib's colors."""
import base64

import cv2
import matplotlib
import numpy as np
import torch

from pervit_mm.analysis import capture


def framed(picture):
    """Top, left, bottom and right of what is pure red."""
    places = np.argwhere((picture == (255, 0, 0)).all(axis=-1))
    return *places.min(axis=0), *places.max(axis=0)


def recorded(subject, path, token, head):
    """What capture() gives at a token, by name and block: ``(H, W)``."""
    with torch.no_grad(), capture(subject.model) as record:
        subject.logits(subject.normalize(subject.load([path]).pixels))
    found = {}
    for block in record:
        h, w = block.hw_shape
        for name, values in (('Φp', block.log_position.exp()), ('Φc', block.maps()['content'][0]),
                             ('Φa', block.attention[0])):
            values = values.mean(dim=0) if head is None else values[head]
            found[f'{name} of block {block.index}'] = values.reshape(h, w, h, w)[token].numpy()
    return found


def check_cells(images, expected, token):
    """Pictures by name have the colors of the expected maps, on one scale for each row, and a frame at the token."""
    assert images.keys() == expected.keys()
    for name, values in expected.items():
        high = 1 if name.startswith('Φp') else max(v.max() for key, v in expected.items() if key[:2] == name[:2])
        data = base64.b64decode(images[name].removeprefix('data:image/png;base64,'))
        cell = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        steps = [len(cell) // side for side in values.shape]
        centers = cell[steps[0] // 2::steps[0], steps[1] // 2::steps[1]]
        np.testing.assert_allclose(centers, 255 * matplotlib.colormaps['viridis'](values / high)[..., :3], atol=3)
        assert framed(cell)[:2] == tuple(place * step for place, step in zip(token, steps))
