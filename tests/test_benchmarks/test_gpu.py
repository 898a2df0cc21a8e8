"""The suite "gpu" without a GPU: what it prints, when it stops, and that its subjects stay on their device."""
import pytest
import torch

from pervit_mm import ops
from pervit_mm.benchmarks import gpu as suite
from pervit_mm.benchmarks.gpu_estimates import ESTIMATES
from pervit_mm.benchmarks.gpu_subjects import Scale, Subject, gpu_subjects
from pervit_mm.benchmarks.settings import Settings
from pervit_mm.models import PerViT
from pervit_mm.utils.errors import UserError

SIZES = ('tiny', 'small', 'medium')


class FakeTimer:
    """A subject returns the seconds that it takes, and a call takes that long by the clock too."""

    def __init__(self):
        self.now, self.resets = 0., 0

    def reset(self):
        self.resets += 1

    def times(self, run):
        seconds = run()
        self.now += 4 * seconds
        return [seconds, 2 * seconds, 3 * seconds, 4 * seconds, 5 * seconds]

    def peak_gib(self):
        return 1.5


def test_a_run_ends_in_time_and_a_failure_costs_one_line(capfd):
    def refuse():
        raise RuntimeError('no | kernel\nand more')

    timer = FakeTimer()
    subjects = [
        Subject('step tiny', 'float16', lambda: lambda: 0.010, note=lambda: 'equal'),
        Subject('step tiny', 'bfloat16', lambda: lambda: 0.005),
        Subject('other', 'broken', lambda: refuse),
        Subject('other', 'long', lambda: lambda: 1., needs=100),
        Subject('other', 'last', lambda: lambda: 0.002),
    ]
    rows = suite.gpu(Settings(), timer=timer, subjects=subjects, budget=90, clock=lambda: timer.now)
    assert [tuple(row.values()) for row in rows] == [
        ('step tiny', 'float16', '30.000', '20.000 to 40.000', '1.000', '51 / 31 and 3.5 GiB', '1.50 GiB, equal'),
        ('step tiny', 'bfloat16', '15.000', '10.000 to 20.000', '0.500', '', '1.50 GiB'),
        ('other', 'broken', '', '', '', '', 'failed: RuntimeError: no / kernel'),
        ('other', 'long', '', '', '', '', 'left out, no time'),
        ('other', 'last', '6.000', '4.000 to 8.000', '1.000', '', '1.50 GiB')]
    out, err = capfd.readouterr()
    assert 'After 0 of 90 s there was no time for 1 of 5 subjects: other: long.' in out
    assert 'and more' in err and 'Traceback' in err
    assert timer.resets == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason='says what is missing without a GPU')
def test_without_a_gpu_one_sentence_says_so():
    with pytest.raises(UserError, match='--suite gpu needs a GPU, and torch .* sees none'):
        suite.gpu(Settings())


def test_each_subject_fits_into_the_time_and_estimates_are_of_subjects():
    """Each estimate stands beside a result."""
    subjects = gpu_subjects(SIZES, Scale())
    names = [(subject.part, subject.name) for subject in subjects]
    assert len(names) == len(set(names))
    assert ESTIMATES.keys() <= set(names)
    assert all(subject.needs < suite.BUDGET for subject in subjects) and suite.BUDGET <= 570


@pytest.fixture(scope='module')
def subjects():
    """On the meta device, which refuses to mix devices as CUDA does, and computes nothing."""
    pytest.importorskip('mmpretrain')
    found = gpu_subjects(('tiny', ), Scale(device='meta', batch=2, side=32, dense=2))
    return {(subject.part, subject.name): subject for subject in found}


@pytest.mark.usefixtures('one_thread')
@pytest.mark.parametrize('part, name', [
    ('position tiny', 'torch'), ('attention tiny', 'trainable mask'), ('attention tiny, forward', 'memory-efficient'),
    ('step tiny', 'float16'), ('optimizer tiny', 'a group for each parameter'), ('matrix product, 468 columns', '472'),
    ('inference tiny, 1 image', 'deployed'), ('dense tiny, 2 x 2 tokens', 'four global blocks')])
def test_subjects_stay_on_their_device(subjects, part, name):
    subjects[part, name].build()()


def test_products_differ_in_the_inner_width_alone(subjects):
    """A padded product is compared with one of the same result."""
    for width, padded in ((468, 472), (540, 544), (684, 688)):
        part = f'matrix product, {width} columns'
        results = [subjects[part, str(inner)].build()() for inner in (padded, width)]
        assert {tuple(result.shape) for result in results} == {(2 * 2 * 2, 4 * width)}


@pytest.mark.parametrize('error, verdict', [(0., 'equal'), (1e-6, 'equal'), (1e-3, 'NOT EQUAL')])
def test_the_verdict_on_the_fused_kernel(monkeypatch, error, verdict):
    """A stand-in for the kernel, whose log Φp is off by ``error``."""
    added = [0.]
    terms = PerViT.position_terms
    monkeypatch.setattr(ops, 'use_fused_position', lambda on: added.__setitem__(0, error if on else 0.), raising=False)
    monkeypatch.setattr(PerViT, 'position_terms', lambda self, grid: [t + added[0] for t in terms(self, grid)[:1]])
    fused, = (subject for subject in gpu_subjects((), Scale(device='cpu', dense=4)) if subject.name == 'Triton')
    assert fused.note().startswith(f'{verdict} to torch: log Φp by ')
    fused.build()()
    assert added == [0.], 'switched off again'


@pytest.mark.cuda
def test_cuda_events_time_the_work_and_not_the_launch():
    timer = suite.CudaTimer(seconds=0.1)
    timer.reset()
    small, large = (torch.randn(side, side, device='cuda') for side in (256, 8192))
    fast, slow = (min(timer.times(lambda x=x: x @ x)) for x in (small, large))
    assert slow > 10 * fast > 0  # 32,768 times the work
    assert timer.peak_gib() > 2 * 8192**2 * 4 / 2**30
