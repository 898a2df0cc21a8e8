"""PerViTLoggerHook: no long silence, and for the rest what MMEngine's LoggerHook logs."""
import re
from types import SimpleNamespace

import pytest
from mmengine.hooks import Hook
from toy_run import toy_runner

from pervit_mm.engine import PerViTLoggerHook
from pervit_mm.engine.hooks import logger_hook
from pervit_mm.utils.errors import UserError


class Clock(Hook):
    """Time that only iterations take, each the same."""

    def __init__(self, seconds):
        self.seconds, self.now = seconds, 0.

    def monotonic(self):
        return self.now

    def before_train_iter(self, *args, **kwargs):
        self.now += self.seconds

    before_val_iter = before_train_iter


def lines_of(tmp_path, monkeypatch, seconds, logger, **options):
    """Lines with an iteration, of a run whose iterations take so many seconds."""
    clock, lines = Clock(seconds), []
    monkeypatch.setattr(logger_hook, 'time', SimpleNamespace(monotonic=clock.monotonic))
    runner = toy_runner(tmp_path, logger=logger, hooks=[clock], **options)
    monkeypatch.setattr(runner.logger, 'info', lambda line, *args: lines.append(str(line)))
    runner.train()
    return [line for line in lines if re.match(r'(Epoch|Iter)\(', line)]


def training(lines):
    return [int(re.search(r'\[ *(\d+)/\d+\]', line)[1]) for line in lines if '(train)' in line]


@pytest.mark.parametrize('interval, plain, patient', [
    (100, [3], [2, 3, 4, 6, 8, 10, 12]),
    (5, [3, 5, 10], [2, 3, 4, 5, 7, 9, 10, 12]),  # a line at the interval starts the ten seconds anew
    (1, [*range(1, 13)], [*range(1, 13)])])
def test_a_line_in_ten_seconds(tmp_path, monkeypatch, interval, plain, patient):
    """Twelve iterations of four seconds. LoggerHook by itself also logs the end of the first pass, the third one."""
    options = dict(tmp_path=tmp_path, monkeypatch=monkeypatch, seconds=4, by_iteration=12,
                   log_processor=dict(by_epoch=False))
    theirs = lines_of(logger=dict(type='LoggerHook', interval=interval), **options)
    ours = lines_of(logger=dict(type='PerViTLoggerHook', interval=interval), **options)
    assert training(theirs) == plain and training(ours) == patient
    # Times are those of the machine.
    same = [[re.sub(r'(time|eta): \S+', '', line) for line in lines] for lines in (theirs, ours)]
    assert set(same[0]) <= set(same[1]), 'each line of theirs, to the letter'


def test_validation_is_not_silent(tmp_path, monkeypatch):
    """Three iterations of eleven seconds in validation, and an epoch of three in training."""
    lines = lines_of(tmp_path, monkeypatch, 11, dict(type='PerViTLoggerHook', interval=100), epochs=1, scores=[1.])
    assert training(lines) == [1, 2, 3]
    assert [line[:20].rstrip() for line in lines if '(val)' in line and 'score' not in line] == [
        f'Epoch(val) [1][{i}/3]' for i in (1, 2, 3)]


@pytest.mark.parametrize('seconds', [0, -1, float('nan'), '10', True])
def test_seconds_must_be_above_zero(seconds):
    with pytest.raises(UserError, match='seconds'):
        PerViTLoggerHook(seconds=seconds)
