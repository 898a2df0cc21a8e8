"""What the benchmark measures is what it says."""
import pytest


@pytest.mark.parametrize('kind', ['windows', 'global'])
def test_the_measured_step_of_a_detector_computes_every_gradient(kind, monkeypatch):
    """The step computes every gradient, and the blocks attend as ``kind`` says."""
    pytest.importorskip('mmdet')
    from pervit_mm.benchmarks import subjects
    models, build = [], subjects.MODELS.build
    monkeypatch.setattr(subjects.MODELS, 'build', lambda cfg: models.append(build(cfg)) or models[-1])
    run = subjects.detector_step(kind, 224, 256)
    run()
    model = models[-1]  # the whole detector is built last, after its parts
    window = (14, 14) if kind == 'windows' else None
    assert model.backbone.with_cp and {block.window_size for block in model.backbone.blocks} == {window}
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
