"""Real data sets that small machines can train on."""

from .fashion_mnist import FASHION_MNIST_FILES, prepare_fashion_mnist

__all__ = ['FASHION_MNIST_FILES', 'prepare_fashion_mnist']
