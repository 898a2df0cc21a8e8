"""The one error that means: the user can put this right."""


class UserError(ValueError):
    """A mistake in an argument, a path, a file or the set-up that the user can put right.

    Its message names the argument, the value given, what is allowed and the next step. The tools print this message as
    one line. Any other exception is a bug, and its traceback is shown.
    """
