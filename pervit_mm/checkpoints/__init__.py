"""Checkpoints: which may be read, how they are read and written whole, the published ones, and the authors'."""
from .allow_list import CheckpointArray, allow_checkpoint_types
from .checked_loading import check_loading
from .checks import check_checkpoint, check_pretrained
from .files import check_target, classifier_weights, read_checkpoint, read_classifier, write_checkpoint
from .latest import checkpoint_folders, find_resumable, is_whole
from .official import convert_official, from_official, read_official, revert_to_official, to_official
from .published import (
    FOLDER,
    PREFIX,
    SUMS,
    index_entries,
    load_from_pervit_mm,
    package_root,
    published_files,
    read_index,
    read_sums,
    register_scheme,
)

__all__ = [
    'FOLDER', 'PREFIX', 'SUMS', 'CheckpointArray', 'allow_checkpoint_types', 'check_checkpoint', 'check_loading',
    'check_pretrained', 'check_target', 'checkpoint_folders', 'classifier_weights', 'convert_official',
    'find_resumable', 'from_official', 'index_entries', 'is_whole', 'load_from_pervit_mm', 'package_root',
    'published_files', 'read_checkpoint', 'read_classifier', 'read_index', 'read_official', 'read_sums',
    'register_scheme', 'revert_to_official', 'to_official', 'write_checkpoint'
]
