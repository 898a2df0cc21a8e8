"""Attacks on a linear model, where the worst image is known."""
import sys

import pytest
import torch

from pervit_mm.evaluation.attacks import fgsm, pgd

pytest.importorskip('captum')
SHAPE = (1, 3, 3)


@pytest.fixture
def linear():
    """Two classes: logits (0, w·x). The loss of class 0 grows along w, that of class 1 against it."""
    w = torch.randn(SHAPE) / 100

    def predict(pixels):
        score = (pixels * w).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(score), score], 1)

    return w, predict


def test_fgsm_on_a_linear_model_is_the_sign_of_its_weights(linear):
    w, predict = linear
    images, labels = 50 + 100 * torch.rand(4, *SHAPE), torch.tensor([0, 1, 0, 1])
    signs = torch.tensor([1., -1., 1., -1.]).view(4, 1, 1, 1)
    with torch.no_grad():  # as an evaluation runs
        attacked = fgsm(predict, images, labels, 8)
    torch.testing.assert_close(attacked, images + 8 * signs * w.sign())
    assert not attacked.requires_grad and not images.requires_grad


def test_a_confident_model_is_attacked_too(linear):
    """Its gradients are below 1e-6, which captum takes for zero by default."""
    w, _ = linear
    images = 100 + 30 * w.sign().expand(1, *SHAPE)

    def predict(pixels):
        score = 12 + (pixels * w).flatten(1).sum(1) - (images * w).sum()
        return torch.stack([torch.zeros_like(score), score], 1)

    attacked = fgsm(predict, images, torch.tensor([1]), 4)
    torch.testing.assert_close(attacked, images - 4 * w.sign())


def test_pgd_reaches_the_corner_of_its_cube_on_a_linear_model(linear):
    w, predict = linear
    images = 50 + 100 * torch.rand(2, *SHAPE)
    attacked = pgd(predict, images, torch.tensor([0, 1]), 4)
    torch.testing.assert_close(attacked, images + 4 * torch.tensor([1., -1.]).view(2, 1, 1, 1) * w.sign())


def test_pgd_stays_in_its_cube_and_among_the_pixels():
    mix = torch.randn(9, 3, 2)

    def predict(pixels):
        return torch.einsum('bi,ijk->bjk', torch.sin(pixels.flatten(1)), mix).sum(-1)

    images, labels = 255 * torch.rand(4, *SHAPE), torch.tensor([0, 1, 2, 0])
    images[0], images[1] = 0, 255
    state = torch.get_rng_state()
    attacked = pgd(predict, images, labels, 6, steps=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert (attacked - images).abs().max() <= 6 + 1e-4 and attacked.min() >= 0 and attacked.max() <= 255
    assert torch.equal(attacked, pgd(predict, images, labels, 6, steps=3))
    assert not torch.equal(attacked, pgd(predict, images, labels, 6, steps=3, seed=1))


def test_without_room_nothing_changes(linear):
    images = 255 * torch.rand(1, *SHAPE)
    for attack in (fgsm, pgd):
        assert torch.equal(attack(linear[1], images, torch.tensor([0]), 0), images)


@pytest.mark.parametrize('epsilon', [-1, 300, '8', True])
@pytest.mark.parametrize('attack', [fgsm, pgd])
def test_a_wrong_epsilon_is_told(linear, attack, epsilon):
    with pytest.raises(ValueError, match='epsilon must be in pixel units from 0 to 255, got .*8/255 is 8'):
        attack(linear[1], torch.rand(1, *SHAPE), torch.tensor([0]), epsilon)


def test_wrong_steps_are_told(linear):
    with pytest.raises(ValueError, match='steps must be a whole number of at least 1, got 0'):
        pgd(linear[1], torch.rand(1, *SHAPE), torch.tensor([0]), 1, steps=0)


def test_a_missing_captum_is_told(linear, monkeypatch):
    monkeypatch.setitem(sys.modules, 'captum.robust', None)
    with pytest.raises(ValueError, match='attacks need captum.*pip install captum'):
        fgsm(linear[1], torch.rand(1, *SHAPE), torch.tensor([0]), 1)
