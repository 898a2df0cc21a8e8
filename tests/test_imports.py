"""Imports go down only: a file of the package imports from its own floor and from lower ones."""
import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import pervit_mm

PACKAGE = Path(pervit_mm.__file__).parent
# From the ground up. A room is a folder or a loose file of the package. Rooms of one floor may import each other.
FLOORS = [
    {'utils', 'ops', 'version', 'registry'},
    {'models', 'datasets'},
    {'checkpoints'},
    {'analysis', 'evaluation', 'selfsup'},
    {'engine', 'apis'},
    {'benchmarks', 'publishing', 'zoo'},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts)


def imports_of(path):
    """Absolute names of all that a file imports, also inside functions."""
    package = ['pervit_mm', *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            module = '.'.join([*base, *([node.module] if node.module else [])])
            # In `from .. import name` the name may be a room.
            yield from ([module] if node.module else (f'{module}.{alias.name}' for alias in node.names))


def room_of(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix('.py')


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_upwards(path):
    room = room_of(path)
    if room == '__init__':
        return  # the package's own __init__ may import from every floor
    for name in imports_of(path):
        if name.startswith('pervit_mm.'):
            other = name.split('.')[1]
            assert other in FLOOR, f'{name} is no room of the house'
            assert FLOOR[other] <= FLOOR[room], f'{room} imports {name}, which stands above it'


@pytest.mark.parametrize('room, allowed', [('ops', 'torch'), ('utils', None)])
def test_the_ground_floor_needs_nothing_of_the_package(room, allowed):
    """``ops`` may import torch, and ``utils`` nothing else of the package. One file of ``ops`` is written in Triton.

    Both may raise a UserError.
    """
    for path in (PACKAGE / room).glob('*.py'):
        for name in imports_of(path):
            top = name.split('.')[0]
            if top == 'pervit_mm':
                assert name.startswith((f'pervit_mm.{room}', 'pervit_mm.utils.errors')), f'{path.name} imports {name}'
            elif allowed and top not in sys.stdlib_module_names:
                kernels = path.stem == 'position_per_query_kernels'
                assert top == allowed or (kernels and top == 'triton'), f'{path.name} imports {name}'


def test_importing_the_package_stays_light():
    """It loads no toolbox, no matplotlib and no room that only some users need."""
    out = subprocess.run(
        [sys.executable, '-c', 'import json, sys, pervit_mm; print(json.dumps(sorted(sys.modules)))'],
        capture_output=True, text=True, check=True).stdout
    loaded = set(json.loads(out.splitlines()[-1]))
    rooms = ('analysis', 'evaluation', 'selfsup', 'apis', 'benchmarks', 'publishing')
    heavy = {'mmdet', 'mmseg', 'mmpretrain', 'timm', 'safetensors', 'matplotlib', 'mmcv.ops', 'triton',
             *(f'pervit_mm.{room}' for room in rooms)}
    assert not heavy & loaded
    assert {'pervit_mm.models', 'pervit_mm.engine', 'pervit_mm.checkpoints'} <= loaded


def test_every_folder_and_loose_file_has_a_floor():
    """A new folder or loose file must be given a floor here."""
    rooms = {path.name.removesuffix('.py') for path in PACKAGE.iterdir()
             if path.suffix == '.py' or (path.is_dir() and (path / '__init__.py').is_file())}
    assert rooms - {'__init__'} <= FLOOR.keys()
