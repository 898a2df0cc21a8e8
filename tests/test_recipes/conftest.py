"""MMPretrain 1.2.0 builds no model where transformers 5 and pycocotools are installed, see docs/other_libraries.md."""
from importlib.util import find_spec

if find_spec('transformers') and find_spec('mmpretrain'):
    from mmpretrain.utils import dependency
    dependency.WITH_MULTIMODAL = False
