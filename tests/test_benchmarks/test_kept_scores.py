"""Scores that are kept: made again exactly where what they are made of has changed."""
import json

import pytest
import torch

from pervit_mm.benchmarks.kept_scores import NUMERICS, fingerprint, kept_scores


def test_scores_are_made_once_for_the_same_things(tmp_path):
    path, made = tmp_path / 'new' / 'scores.json', []

    def scores(**made_of):
        return kept_scores(path, made_of, lambda: made.append(made_of) or dict(top1=len(made)))

    assert [scores(images=9, sides=(3, 4)), scores(images=9, sides=(3, 4))] == [dict(top1=1)] * 2
    assert scores(images=8, sides=(3, 4)) == dict(top1=2) and scores(images=8) == dict(top1=3) == scores(images=8)
    assert len(made) == 3
    path.write_text(json.dumps(dict(top1=5)))  # scores of an older form say nothing of what they are made of
    assert scores(images=8) == dict(top1=4)


def test_scores_of_other_code_or_another_torch_are_made_again(tmp_path, monkeypatch):
    made = []

    def scores():
        return kept_scores(tmp_path / 'scores.json', dict(images=9), lambda: made.append(0) or dict(top1=len(made)))

    assert [scores(), scores()] == [dict(top1=1)] * 2
    monkeypatch.setattr(torch, '__version__', '1.0')
    assert [scores(), scores()] == [dict(top1=2)] * 2
    monkeypatch.setattr('pervit_mm.benchmarks.kept_scores.NUMERICS', NUMERICS + 1)
    assert [scores(), scores()] == [dict(top1=3)] * 2


def test_scores_that_failed_leave_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        kept_scores(tmp_path / 'scores.json', {}, lambda: 1 / 0)
    with pytest.raises(TypeError):
        kept_scores(tmp_path / 'scores.json', {}, lambda: dict(top1={1, 2}))
    assert not list(tmp_path.iterdir())


def test_a_fingerprint_is_of_the_content(tmp_path):
    for name, content in (('a', b'one'), ('b', b'one'), ('c', b'two')):
        (tmp_path / name).write_bytes(content)
    first, same, other = (fingerprint(tmp_path / name) for name in 'abc')
    assert first == same != other and first == '7692c3ad3540bb80'
    assert fingerprint('pervit_mm://a.pth') == 'pervit_mm://a.pth'
