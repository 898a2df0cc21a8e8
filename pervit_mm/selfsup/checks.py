"""Checks of arguments that several parts share."""
from collections.abc import Sequence

from ..utils.errors import UserError


def check_positive(**values: float) -> None:
    """Raise UserError for the first value, by the name of its argument, that is not a number above 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise UserError(f'{name} must be a number above 0, got {value!r}')


def check_share(**values: float) -> None:
    """Raise UserError for the first value, by the name of its argument, that is not from 0 to 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise UserError(f'{name} must be from 0 to 1, got {value!r}')


def check_counts(owner: str, **values: int) -> None:
    """Raise UserError for the first value, by the name of its argument, that is not a positive integer."""
    for name, value in values.items():
        if type(value) is not int or value < 1:
            raise UserError(f'{name} of {owner} must be a positive integer, got {value!r}')


def check_classes(**values: Sequence[int]) -> None:
    """Raise UserError for the first value, by the name of its argument, that is no list of different class numbers."""
    for name, value in values.items():
        if not isinstance(value, (list, tuple)) or not value or not all(
                type(one) is int and one >= 0 for one in value) or len(set(value)) != len(value):
            raise UserError(f'{name} must be different numbers of classes from 0, such as [0, 1], got {value!r}')


def check_tasks(owner: str, tasks: Sequence[Sequence[int]]) -> None:
    """Raise UserError unless the tasks are lists of classes, and no class is in two of them."""
    if not isinstance(tasks, (list, tuple)) or not tasks:
        raise UserError(f'tasks of {owner} must be lists of classes, such as [[0, 1], [2, 3]], got {tasks!r}')
    check_classes(**{f'tasks[{i}] of {owner}': classes for i, classes in enumerate(tasks)})
    check_classes(**{f'all tasks of {owner} together': [one for classes in tasks for one in classes]})
