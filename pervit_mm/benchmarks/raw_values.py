"""Raw values of studies, read again from the CSV that a study wrote."""
import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from ..utils.errors import UserError, told


def read_rows(path: str | Path, columns: Sequence[str], tool: str) -> list[dict[str, str]]:
    """Read the lines of a CSV.

    Args:
        path (str | Path): The file.
        columns (Sequence[str]): Those that it has to have.
        tool (str): The tool that writes it, for the message.

    Returns:
        list[dict[str, str]]: A dict for each line, in the order of the columns.

    Raises:
        UserError: If the file cannot be read, has other columns, or a line has too few or too many values.
    """
    with told(f'{str(path)!r} cannot be read', OSError, UnicodeDecodeError, csv.Error):
        with open(path, newline='', encoding='utf-8') as file:
            reader = csv.DictReader(file)
            rows, found = list(reader), list(reader.fieldnames or ())
    if sorted(found) != sorted(columns) or any(None in row or None in row.values() for row in rows):
        raise UserError(f'{str(path)!r} must be a table with the columns {", ".join(columns)} and a value for each in '
                        f'every line, got the columns {", ".join(found) or "of an empty file"}: name a file that '
                        f'{tool} wrote with --out')
    return [{column: row[column] for column in columns} for row in rows]


def check_read(parser: argparse.ArgumentParser, args: argparse.Namespace, training: Sequence[str]) -> None:
    """End the command with a message if ``--read`` comes with an option that only a training takes.

    Args:
        parser (argparse.ArgumentParser): Of the tool. It has an option ``--read``.
        args (argparse.Namespace): What it read.
        training (Sequence[str]): Names of the options of a training, as in ``args``.
    """
    given = [name for name in training if getattr(args, name) != parser.get_default(name)]
    if args.read and given:
        parser.error(f'--read trains nothing, so it takes no --{given[0].replace("_", "-")}')
