"""Real data sets that small machines can train on."""

from .fashion_clutter import prepare_fashion_clutter
from .fashion_mnist import FASHION_MNIST_FILES, prepare_fashion_mnist
from .fashion_scenes import FASHION_CLASSES, FashionScenes, Scene
from .fashion_scenes_files import prepare_fashion_scenes
from .fashion_sequences import FashionSequences, ItemSequence
from .loading import PerViTLoadImageFromFile

__all__ = [
    'FASHION_CLASSES', 'FASHION_MNIST_FILES', 'FashionScenes', 'FashionSequences', 'ItemSequence',
    'PerViTLoadImageFromFile', 'Scene', 'prepare_fashion_clutter', 'prepare_fashion_mnist', 'prepare_fashion_scenes'
]
