"""docs/model_zoo.md says what the metafiles say."""
import runpy
from pathlib import Path

import pytest
from mmengine.fileio import load

ROOT = Path(__file__).resolve().parents[2]
TOOL = runpy.run_path(str(ROOT / 'tools' / 'make_model_zoo.py'))


def test_page_is_current():
    TOOL['main'](['--check'])


def test_page_names_every_model_and_its_numbers():
    page = (ROOT / 'docs' / 'model_zoo.md').read_text()
    for path in load(ROOT / 'model-index.yml')['Import']:
        for model in load(ROOT / path)['Models']:
            line, = [line for line in page.splitlines() if line.startswith(f'| [`{model["Name"]}`]')]
            assert f'{model["Metadata"]["Parameters"]:,}' in line
            for result in model.get('Results', []):
                assert all(str(value) in line for value in result['Metrics'].values())


def test_page_that_is_out_of_date_is_told(tmp_path, monkeypatch):
    page = tmp_path / 'docs' / 'model_zoo.md'
    page.parent.mkdir()
    page.write_text('old')
    monkeypatch.setitem(TOOL['main'].__globals__, 'PAGE', page)
    monkeypatch.setitem(TOOL['main'].__globals__, 'ROOT', tmp_path)
    monkeypatch.setitem(TOOL['main'].__globals__, 'render', lambda: 'new')
    with pytest.raises(SystemExit, match='make_model_zoo'):
        TOOL['main'](['--check'])
    TOOL['main']([])
    assert page.read_text() == 'new'
