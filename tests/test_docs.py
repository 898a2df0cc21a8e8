"""README and docs: links lead somewhere, lines fit, tables are narrow, spelling is American."""
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'CHANGELOG.md', *sorted((ROOT / 'docs').glob('*.md'))]
LINK = re.compile(r'\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"')
# British spellings, which this project does not use.
BRITISH = re.compile(
    r'\b(colour\w*|grey\w*|neighbour\w*|behaviour\w*|centre[sd]?|licence\w*|favour\w*|'
    r'(?:recogn|normal|initial|optim|regular|quant|summar|visual|organ|general)is(?:e[srd]?|ing|ation)\b)', re.I)


def anchors_of(page):
    """Anchors of a page's headings, by GitHub's rule."""
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.S | re.M)
    headings = re.findall(r'^#+ (.+)$', text, re.M)
    return {re.sub(r'[^\w\- ]', '', heading).strip().lower().replace(' ', '-') for heading in headings}


def prose_of(page):
    """A page without code, links and file names."""
    text = re.sub(r'^```.*?^```|^    .*$', '', page.read_text(), flags=re.S | re.M)
    return re.sub(r'`[^`]*`|\]\([^)]*\)', '', text)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Each leads to a file of the repository and to an existing heading. Web addresses are not checked."""
    for groups in LINK.findall(page.read_text()):
        link = ''.join(groups)
        if '://' in link or link.startswith('mailto:'):
            continue
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f'{page.name} links to {link}, which is not there'
        if anchor:
            assert anchor in anchors_of(target), f'{page.name} links to {link}: {target.name} has no such heading'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_lines_and_tables_fit(page):
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith('|'):
            columns = len(re.sub(r'`[^`]*`|\\\|', '', line).strip().strip('|').split('|'))
            assert columns <= 7, f'{page.name}:{number} is a table of {columns} columns; 7 at most'
        elif '](' not in line and '<img' not in line:
            assert len(line) <= 120, f'{page.name}:{number} has {len(line)} columns; 120 at most'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_spelling_is_american(page):
    found = BRITISH.findall(prose_of(page))
    assert not found, f'{page.name} has British spelling: {found}'


def test_the_readme_is_short():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 110


def test_every_page_is_in_the_index():
    index = ROOT / 'docs' / 'README.md'
    missing = [page.name for page in index.parent.glob('*.md') if page != index and page.name not in index.read_text()]
    assert not missing, f'docs/README.md does not name {missing}'
