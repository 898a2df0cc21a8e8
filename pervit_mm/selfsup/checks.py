"""Checks of arguments that several parts share."""
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
