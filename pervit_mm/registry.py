"""Child registries under scope ``pervit_mm``.

All classes of this package register on MMEngine's *root* registries. Every toolbox scope falls back to these, so
``type='PerViT'`` is found from mmpretrain, mmdet and mmseg alike.

The children below stay empty on purpose. They make ``type='pervit_mm.PerViT'`` work as well. That form needs no
``custom_imports``: when MMEngine meets a scope that it does not know yet, it imports ``<scope>.registry`` and then the
``locations`` of the registry.
"""
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as ROOT_OPTIM_WRAPPERS
from mmengine.registry import RUNNERS as ROOT_RUNNERS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import WEIGHT_INITIALIZERS as ROOT_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

_SCOPE = 'pervit_mm'

MODELS = Registry('model', parent=ROOT_MODELS, scope=_SCOPE, locations=['pervit_mm.models'])
HOOKS = Registry('hook', parent=ROOT_HOOKS, scope=_SCOPE, locations=['pervit_mm.engine'])
WEIGHT_INITIALIZERS = Registry(
    'weight initializer', parent=ROOT_WEIGHT_INITIALIZERS, scope=_SCOPE,
    locations=['pervit_mm.models'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor', parent=ROOT_OPTIM_WRAPPER_CONSTRUCTORS, scope=_SCOPE,
    locations=['pervit_mm.engine'])
OPTIM_WRAPPERS = Registry(
    'optimizer wrapper', parent=ROOT_OPTIM_WRAPPERS, scope=_SCOPE, locations=['pervit_mm.engine'])
RUNNERS = Registry('runner', parent=ROOT_RUNNERS, scope=_SCOPE, locations=['pervit_mm.engine'])
TRANSFORMS = Registry('transform', parent=ROOT_TRANSFORMS, scope=_SCOPE, locations=['pervit_mm.datasets'])
