"""Twenty hostile or broken checkpoints through every door: each is one sentence, and nothing of it is run."""
import io
import pickle
import zipfile

import pytest
import torch
from conftest import TINY_ARCH
from mmengine.config import Config
from toy_run import toy_runner

from pervit_mm.apis.export import load_model
from pervit_mm.checkpoints import is_whole, read_checkpoint, read_classifier, read_official
from pervit_mm.models import PerViT, load_pretrained
from pervit_mm.publishing.publish import publish
from pervit_mm.utils.errors import UserError


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def archive(pickled, **records):
    """A file in PyTorch's format with any pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as file:
        for name, data in dict({'data.pkl': pickled, 'version': b'3', 'byteorder': b'little'}, **records).items():
            file.writestr(f'archive/{name}', data)
    return buffer.getvalue()


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def state(**changes):
    return dict({f'backbone.{key}': value for key, value in PerViT(TINY_ARCH, img_size=28).state_dict().items()},
                **changes)


def hostile(executed):
    """Name to bytes; whatever runs makes the file ``executed``."""
    touch = Call(open, str(executed), 'w')
    whole = saved(dict(state_dict=state(), meta={}))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED) as file:
        file.writestr('archive/data.pkl', pickle.dumps({}))
        file.writestr('archive/data/0', bytes(50 * 2**20))
    flipped = bytearray(saved(dict(state_dict=dict(w=torch.arange(5000.)))))
    flipped[flipped.find(torch.arange(500., 504.).numpy().tobytes())] ^= 1
    nan = state()
    nan['backbone.norm2.weight'] = torch.full((24, ), float('nan'))
    return {
        'call': saved(dict(state_dict=touch)), 'call of eval': saved(Call(eval, f'open({str(executed)!r}, "w")')),
        'call in an old pickle': pickle.dumps(touch, protocol=2), 'call in a raw archive': archive(pickle.dumps(touch)),
        'getattr chain': saved(Call(getattr, dict, '__subclasses__')), 'import of os': archive(b'cos\nsystem\n.'),
        'build of a class': archive(b'ctorch.nn\nModule\n)\x81}\x8c\x01aK\x01sb.'), 'empty': b'',
        'text': b'not a checkpoint', 'truncated': whole[:len(whole) // 2], 'cut at the end': whole[:-5],
        'flipped bit': bytes(flipped), 'compressed': packed.getvalue(), 'no pickle': archive(b''),
        'endless pickle': archive(b'(' * 10**5), 'escape codes': archive(b'c\x1b[31mos\nsystem\n.'),
        'list': saved([1, 2]), 'expanded': saved(dict(state_dict=state(x=torch.ones(1).expand(10**10)))),
        'sparse': saved(dict(state_dict=dict(x=torch.eye(3).to_sparse()))), 'nan': saved(dict(state_dict=nan, meta={})),
    }


#: What only some doors have to refuse: it is a state dict that can be read.
READABLE = {'list', 'sparse', 'nan'}
NAMES = sorted(hostile('executed'))


def doors(path, folder):
    """Every way into the package that a file has, by name."""
    config = Config(dict(model=dict(type='ImageClassifier', backbone=dict(type='PerViT', arch=TINY_ARCH, img_size=28)),
                         default_scope='mmpretrain'))
    root = folder / 'clone'
    root.mkdir(exist_ok=True)
    (root / 'model-index.yml').touch()
    (root / 'small.py').write_text(f"model = dict(type='PerViT', arch={TINY_ARCH!r}, img_size=28)\n")
    return {
        'read_checkpoint': lambda: read_checkpoint(path),
        'read_classifier': lambda: read_classifier(path),
        'read_official': lambda: read_official(path),
        'init_cfg': lambda: load_pretrained(PerViT(TINY_ARCH, img_size=28), str(path), 'backbone.'),
        'export': lambda: load_model(config, path, backbone_only=True),
        'publish': lambda: publish(root / 'small.py', path, root),
        'resume': lambda: toy_runner(folder / 'run', resume=True, load_from=str(path)).train(),
        'load_from': lambda: toy_runner(folder / 'run', load_from=str(path)).train(),
    }


@pytest.mark.parametrize('name', NAMES)
def test_a_hostile_file_is_one_sentence_at_every_door(tmp_path, name):
    executed = tmp_path / 'executed'
    path = tmp_path / 'file.pth'
    path.write_bytes(hostile(executed)[name])
    assert not is_whole(path) or name in READABLE
    for door, enter in doors(path, tmp_path).items():
        if name in READABLE and door in ('read_checkpoint', 'read_official', 'read_classifier', 'init_cfg', 'export'):
            continue  # it is a list or a state dict, and these doors say what they need by its keys; see their tests
        if (name, door) == ('expanded', 'init_cfg'):
            continue  # the tensor is none of the backbone's, and what isn't used isn't copied
        with pytest.raises(UserError) as stop:
            enter()
        message = str(stop.value)
        assert len(message.splitlines()) == 1 and message.isprintable(), door
        assert 'weights_only' not in message and 'add_safe_globals' not in message, f"{door} repeats PyTorch's advice"
    assert not executed.exists()
