"""Tables in Markdown."""
from collections.abc import Mapping, Sequence


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows with the same keys as a Markdown table."""
    if not rows:
        return ''
    head = list(rows[0])
    lines = ['| ' + ' | '.join(head) + ' |', '|' + ' --- |' * len(head)]
    lines += ['| ' + ' | '.join(str(row[key]) for key in head) + ' |' for row in rows]
    return '\n'.join(lines)
