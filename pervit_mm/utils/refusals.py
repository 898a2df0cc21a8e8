"""Why a file could not be read by PyTorch, in one sentence of our own."""
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn what ``torch.load(weights_only=True)`` raises into a :class:`UserError`.

    PyTorch wraps the reason of a refusal in advice, which begins with turning the protection off. This repeats the
    reason alone.

    Args:
        path (str | Path): The file, for the message.

    Raises:
        UserError: If the file asks for an object that isn't on the list, or is damaged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a damaged or crafted file fails in whatever way it likes
        refused = isinstance(error, pickle.UnpicklingError)
        reason = str(error.__context__ or error) if refused else str(error)
        asked = re.search(r'GLOBAL (\S+) |checkpoint asks for (.+?)\. pervit_mm', reason)
        if refused and asked:
            raise UserError(
                f"'{path}' was refused and nothing of it was executed: it asks for {_plain(asked[1] or asked[2])}, and "
                'only tensors, numbers, text, their containers, argparse.Namespace and paths are allowed. If you trust '
                'the file, open it where it was made and save its state dict alone with torch.save') from error
        first = reason.splitlines()[0].split('. ')[0] if reason.strip() else 'it ends too early'
        raise UserError(f"'{path}' cannot be read as a PyTorch checkpoint ({type(error).__name__}: {_plain(first)}), "
                        'and nothing of it was executed; check that it is one and complete') from error


def _plain(text: str) -> str:
    """Text of a file without control characters, which would move a terminal's cursor or change its colors."""
    return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)
