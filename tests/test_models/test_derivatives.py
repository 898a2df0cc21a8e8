"""torch.func, forward mode and second derivatives of the whole network: live, deployed and without Φp."""
import pytest
import torch
from conftest import TINY_ARCH, naming, randomize
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from pervit_mm.models import PerViT

pytestmark = pytest.mark.usefixtures('one_thread')
FORMS = ['live', 'deployed', 'no position']


def setting(form):
    """Model, its parameters, a loss of parameters and one image, and images."""
    options = dict(position_cfg=None) if form == 'no position' else dict()
    model = randomize(PerViT(TINY_ARCH, img_size=16, **options)).eval()
    if form == 'deployed':
        model.switch_to_deploy([(4, 4)])
    params = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(p, x):
        return functional_call(model, p, (x[None], ))[0].square().mean()

    return model, params, loss, torch.rand(3, 3, 16, 16)


@pytest.mark.parametrize('form', FORMS)
def test_gradients_of_each_image_at_once_are_those_of_one_after_the_other(form):
    model, params, loss, images = setting(form)
    found = vmap(grad(loss), (None, 0))(params, images)
    for i, image in enumerate(images):
        model.zero_grad()
        model(image[None])[0].square().mean().backward()
        for name, parameter in model.named_parameters():
            scale = parameter.grad.abs().max().item()
            torch.testing.assert_close(found[name][i], parameter.grad, rtol=1e-3, atol=1e-4 * scale + 1e-7,
                                       msg=naming(name))


@pytest.mark.parametrize('form', FORMS)
def test_forward_mode_is_the_gradient_along_a_direction(form):
    """Of parameters and image, with gradients off too, where log Φp would otherwise come from the cache."""
    model, params, loss, images = setting(form)
    point, direction = (params, images[0]), ({k: torch.randn_like(v) for k, v in params.items()}, torch.rand(3, 16, 16))
    gradients = grad(loss, (0, 1))(*point)
    expected = sum((gradients[0][name] * t).sum() for name, t in direction[0].items())
    expected = expected + (gradients[1] * direction[1]).sum()
    with torch.no_grad():
        model(images)  # fills the cache
        for _ in range(2):
            torch.testing.assert_close(jvp(loss, point, direction)[1], expected, rtol=1e-3, atol=1e-5)


def test_models_with_different_weights_run_at_once_and_leave_the_cache_alone():
    model, params, _, images = setting('live')
    both = {name: torch.stack((value, value + 0.01 * torch.rand_like(value))) for name, value in params.items()}
    with torch.no_grad():
        found = vmap(lambda p: functional_call(model, p, (images, ))[0])(both)
        assert not model.position_cache.kept
        for i in range(2):
            model.load_state_dict({name: value[i] for name, value in both.items()}, strict=False)
            torch.testing.assert_close(found[i], model(images)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('form', FORMS)
def test_second_derivatives_by_backward_twice_are_those_of_torch_func(form):
    """The first run as the docs say, by torch's plain attention; forward mode over the gradient is the other way."""
    model, params, loss, images = setting(form)
    names, direction = list(params), {name: torch.randn_like(value) for name, value in params.items()}
    expected = jvp(lambda p: grad(loss)(p, images[0]), (params, ), (direction, ))[1]
    with sdpa_kernel(SDPBackend.MATH):
        first = torch.autograd.grad(model(images[:1])[0].square().mean(), model.parameters(), create_graph=True)
        along = sum((g * direction[name]).sum() for name, g in zip(names, first))
        found = torch.autograd.grad(along, model.parameters(), materialize_grads=True)
    largest = max(value.abs().max().item() for value in expected.values())
    for name, value in zip(names, found):
        torch.testing.assert_close(value, expected[name], rtol=1e-2, atol=1e-4 * largest, msg=naming(name))
