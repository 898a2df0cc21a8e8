"""The error that means: the user can fix this."""
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A mistake in an argument, a path, a file or the set-up that the user can fix.

    Its message names the argument, the value given, what is allowed and the next step. The tools print this message as
    one line. Any other exception is a bug, and its traceback is shown.
    """


class UserTypeError(UserError, TypeError):
    """A :class:`UserError` about an argument of a wrong type, which Python code may want to catch as TypeError."""


@contextmanager
def told(what: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn errors of the surroundings, such as a folder that cannot be made, into a :class:`UserError`.

    Args:
        what (str): Beginning of the message, which names the argument and its value.
        *errors (type[Exception]): What is turned. Defaults to OSError.

    Raises:
        UserError: With ``what`` and the error's own words.
    """
    kinds = errors or (OSError, )
    try:
        yield
    except kinds as error:
        raise UserError(f'{what} ({type(error).__name__}: {error})') from error
