"""A process that has not imported the package still finds its names in MMEngine's registries."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmpretrain')

ROOT = Path(__file__).parents[1]

# One process imports the toolbox; each case runs in a fork of it, which has never seen pervit_mm.
SCRIPT = '''
import json
import os
import sys

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import (HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS,
                                 WEIGHT_INITIALIZERS)

CONFIG = sys.argv[1]
init_default_scope('mmpretrain')
backbone = dict(arch='nano', img_size=28, in_channels=1)


def describe(module):
    return [type(module).__module__, type(module).__name__]


def classifier(name):
    model = MODELS.build(dict(type='ImageClassifier', backbone=dict(type=name, **backbone)))
    return describe(model.backbone) + [sum(p.numel() for p in model.backbone.parameters())]


def bare():
    try:
        return describe(MODELS.build(dict(type='PerViT', **backbone)))
    except KeyError:
        return 'KeyError'


def custom_imports():
    Config.fromfile(CONFIG)
    return classifier('PerViT')


CASES = dict(
    bare=bare,
    scope=lambda: classifier('pervit_mm.PerViT'),
    imports=custom_imports,
    hook=lambda: describe(HOOKS.build(dict(type='pervit_mm.PerViTRandomStateHook'))),
    initializer=lambda: describe(WEIGHT_INITIALIZERS.build(dict(type='pervit_mm.PeripheralInit'))),
    neck=lambda: describe(MODELS.build(dict(type='pervit_mm.PerViTFeaturePyramid', in_channels=8, out_channels=8))),
    wrapper=lambda: OPTIM_WRAPPERS.get('pervit_mm.PerViTBFloat16OptimWrapper').__name__,
    constructor=lambda: OPTIM_WRAPPER_CONSTRUCTORS.get('pervit_mm.PerViTLayerDecayConstructor').__name__)
for name, case in CASES.items():
    if os.fork() == 0:
        known = 'pervit_mm' in sys.modules
        try:
            answer = case()
        except BaseException as error:
            answer = repr(error)
        print(json.dumps([name, known, answer]), flush=True)
        os._exit(0)
    os.wait()
'''


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='the script forks')
def test_names_are_found_without_importing_the_package(tmp_path):
    """``pervit_mm.PerViT`` needs no import. ``PerViT`` needs only ``custom_imports``."""
    config = tmp_path / 'config.py'
    config.write_text("custom_imports = dict(imports=['pervit_mm'], allow_failed_imports=False)\n")
    out = subprocess.run([sys.executable, '-c', SCRIPT, str(config)], capture_output=True, text=True, cwd=tmp_path,
                         env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}, timeout=120)
    assert out.returncode == 0, out.stderr[-3000:]
    lines = [json.loads(line) for line in out.stdout.splitlines() if line.startswith('[')]
    assert not any(known for _, known, _ in lines), 'nothing but the case imports pervit_mm'

    from pervit_mm.models import PerViT
    params = sum(p.numel() for p in PerViT('nano', img_size=28, in_channels=1).parameters())
    model = ['pervit_mm.models.pervit', 'PerViT']
    assert {name: answer for name, _, answer in lines} == dict(
        bare='KeyError',
        scope=[*model, params],
        imports=[*model, params],
        hook=['pervit_mm.engine.hooks.random_state_hook', 'PerViTRandomStateHook'],
        initializer=['pervit_mm.models.initialization', 'PeripheralInit'],
        neck=['pervit_mm.models.necks', 'PerViTFeaturePyramid'],
        wrapper='PerViTBFloat16OptimWrapper',
        constructor='PerViTLayerDecayConstructor')
