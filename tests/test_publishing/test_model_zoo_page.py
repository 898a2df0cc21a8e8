"""docs/model_zoo.md says what the metafiles say."""
import runpy
import shutil
from pathlib import Path

import pytest
from mmengine.fileio import load

from pervit_mm.publishing.model_zoo_page import render

ROOT = Path(__file__).resolve().parents[2]
main = runpy.run_path(str(ROOT / 'tools' / 'make_model_zoo.py'))['main']


def test_page_is_current():
    main(['--check'])


def test_page_names_every_model_and_its_numbers():
    page = (ROOT / 'docs' / 'model_zoo.md').read_text()
    for path in load(ROOT / 'model-index.yml')['Import']:
        for model in load(ROOT / path)['Models']:
            line, = [line for line in page.splitlines() if line.startswith(f'| [`{model["Name"]}`]')]
            assert f'{model["Metadata"]["Parameters"]:,}' in line
            for result in model.get('Results', []):
                assert all(str(value) in line for value in result['Metrics'].values())


def test_a_model_without_results_says_so():
    line, = [line for line in render().splitlines() if line.startswith('| [`pervit-tiny_3rdparty_in1k`]')]
    assert '| none at hand | none here: [convert](migration.md)' in line


def test_page_that_is_out_of_date_is_told(tmp_path):
    page = tmp_path / 'model_zoo.md'
    for text in (None, 'old'):
        if text:
            page.write_text(text)
        with pytest.raises(SystemExit, match=f'^{page} is out of date: run python tools/make_model_zoo.py$'):
            main(['--check', '--page', str(page)])
    main(['--page', str(page)])
    main(['--check', '--page', str(page)])
    assert page.read_text() == render()


@pytest.mark.parametrize('args', [[], ['--check']])
def test_a_wheel_without_docs_is_named(tmp_path, args):
    """A wheel has tools/ and no docs/."""
    (tmp_path / 'tools').mkdir()
    copy = shutil.copy(ROOT / 'tools' / 'make_model_zoo.py', tmp_path / 'tools')
    with pytest.raises(SystemExit, match=f"^tools/make_model_zoo.py: there is no folder '{tmp_path}/docs' for the "
                       'page: run it in a clone of the project, or give --page FILE$'):
        runpy.run_path(str(copy))['main'](args)
    assert not (tmp_path / 'docs').exists()
