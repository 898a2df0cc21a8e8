"""The Python code of a page of docs/, run as a reader would."""
import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / 'docs'


def run_section(page, heading):
    """Run the blocks of a section in their order, each with names of its own, in the current folder.

    Args:
        page (str): File in ``docs/``.
        heading (str): The section's, of the second level.

    Returns:
        list[dict]: What each block defines.
    """
    _, found, section = (DOCS / page).read_text().partition(f'\n## {heading}\n')
    blocks = re.findall(r'^```python\n(.*?)^```', section.split('\n## ')[0], re.S | re.M)
    assert found and blocks, f'{page} has no code under "{heading}"'
    return [run_code(block, f'{page}, {heading}') for block in blocks]


def run_code(code, name):
    """Run Python code and return what it defines."""
    names = {'__name__': 'page'}
    exec(compile(code, name, 'exec'), names)
    return names
