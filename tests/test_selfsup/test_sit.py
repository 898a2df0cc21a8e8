"""SiT: who sees what, losses against formulas on features made here, and the decoder's place for each token."""
import pytest
import torch
import torch.nn.functional as F
from distillation_run import BACKBONE, SIT, calls_of, distiller, make_views, options_of

from pervit_mm.selfsup import GroupCorruption, SiT, TokenDecoder
from pervit_mm.utils.errors import UserError

pytestmark = pytest.mark.usefixtures('one_thread')


class KnownCorruption:
    """Corrupts as GroupCorruption does, and remembers the results."""

    def __init__(self):
        self.made = []

    def __call__(self, images):
        self.made.append(GroupCorruption()(images))
        return self.made[-1]


def example(**options):
    """A model in eval mode with a corruption that remembers, and two views of four images."""
    model = distiller(SIT, **options).eval()
    model.corruption = KnownCorruption()
    return model, make_views(4, (28, 28))


def test_the_student_sees_corrupted_views_and_the_teacher_clean_ones():
    model, views = example()
    student, teacher = calls_of(model.backbone), calls_of(model.teacher.module['backbone'])
    before = [view.clone() for view in views]
    model.loss(views)
    corrupted = torch.cat([image for image, _ in model.corruption.made])
    masks = torch.cat([mask for _, mask in model.corruption.made])
    (seen, ), = student
    (known, ), = teacher
    assert torch.equal(seen, corrupted) and torch.equal(known, torch.cat(before))
    assert torch.equal((seen != known).flatten(1).any(1), masks.flatten(1).any(1)) and masks.any()
    assert all(torch.equal(*pair) for pair in zip(views, before)), 'the views of the batch are changed'


@torch.no_grad()
def losses_by_hand(model, views):
    """Both losses from the recorded corruption, each view run by itself."""
    student, teacher, pixel = [], [], []
    for view, (corrupted, mask) in zip(views, model.corruption.made):
        tokens = model.backbone(corrupted)[-1]
        student.append(F.normalize(model.neck((tokens.mean(1), ))[0], dim=1))
        known = model.teacher.module['backbone'](view)[-1]
        teacher.append(F.normalize(model.teacher.module['neck']((known.mean(1), ))[0], dim=1))
        pixel.append((model.decoder(tokens, (28, 28)) - view)[mask].abs().mean())
    labels = torch.arange(4)
    terms = [F.cross_entropy(student[v] @ teacher[1 - v].T / 0.2, labels) for v in (0, 1)]
    found = [(student[v] @ teacher[1 - v].T).argmax(1) == labels for v in (0, 1)]
    return 2 * 0.2 * (terms[0] + terms[1]) / 2, (pixel[0] + pixel[1]) / 2, torch.stack(found).float().mean()


def test_the_losses_are_their_formulas():
    """Contrast with the teacher's other view, both ways, and λ times the error on corrupted pixels."""
    model, views = example(pixel_weight=3.)
    losses = model.loss(views)
    contrast, pixel, agreement = losses_by_hand(model, views)
    assert losses['contrast_loss'].item() == pytest.approx(2 * contrast.item(), rel=1e-5)
    assert losses['pixel_loss'].item() == pytest.approx(3 * pixel.item(), rel=1e-5)
    assert losses['agreement'].item() == pytest.approx(agreement.item()) and losses['chance'].item() == 0.25


@pytest.mark.parametrize('where', ['clean', 'corrupted'])
def test_clean_pixels_are_not_part_of_the_loss(where):
    """Whatever the decoder makes of them."""
    model, views = example()
    masks, calls = [], []

    def disturb(module, args, image):
        mask = model.corruption.made[-2:][len(calls) % 2][1]
        calls.append(mask)
        return image + 5 * torch.randn_like(image) * (mask if where == 'corrupted' else ~mask)

    torch.manual_seed(3)
    expected = model.loss(views)['pixel_loss'].item()
    masks += [mask for _, mask in model.corruption.made]
    model.decoder.register_forward_hook(disturb)
    torch.manual_seed(3)
    found = model.loss(views)['pixel_loss'].item()
    assert len(calls) == 2 and all(torch.equal(*pair) for pair in zip(calls, masks))
    assert (found == expected) == (where == 'clean')


def test_views_beyond_the_second_are_not_used():
    (model, views), other = example(), torch.randn(4, 1, 16, 16)
    torch.manual_seed(3)
    expected = model.loss(views)
    torch.manual_seed(3)
    found = model.loss([*views, other])
    assert {key: value.item() for key, value in found.items()} == {key: value.item() for key, value in expected.items()}


def test_the_pixel_loss_is_mmpretrains_by_default():
    options = options_of(SIT)
    del options['pixel_loss']
    model, twin = SiT(**options), distiller(SIT)
    prediction, image, mask = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8), torch.rand(2, 1, 8, 8) < 0.5
    assert torch.equal(model.pixel_loss(prediction, image, mask), twin.pixel_loss(prediction, image, mask))


@pytest.mark.parametrize('agreement, words', [(0.01, 'finds 1.0 % of the images, and chance is 0.8 %'),
                                              (0.5, None)])
def test_collapse_is_named(agreement, words):
    found = distiller(SIT).collapsed(dict(agreement=agreement, chance=1 / 128, loss=1.))
    assert distiller(SIT).collapsed(dict(agreement=0.5, chance=0.5, loss=1.)) is None  # a batch of two says nothing
    assert found is None if words is None else words in found


def decoder(stride=4, channels=2):
    model = TokenDecoder(5, stride, channels)
    for param in model.parameters():
        param.data.normal_()
    return model


def test_the_decoder_puts_each_token_on_its_pixels():
    """A token changes its own patch in every channel, and no other pixel."""
    model, tokens = decoder(), torch.randn(2, 6, 5)
    changed = tokens.clone()
    changed[:, 3] += 1  # the grid is 3 x 2, so this is row 1, column 1
    with torch.no_grad():
        difference = (model(changed, (12, 8)) - model(tokens, (12, 8))).abs()
    assert difference.shape == (2, 2, 12, 8)
    assert (difference[:, :, 4:8, 4:] > 0).all()
    difference[:, :, 4:8, 4:] = 0
    assert not difference.any()


def test_the_decoder_is_its_formula():
    """Three Linear layers with GELU after each, then one more to the pixels of the patch."""
    model, tokens = decoder(), torch.randn(2, 6, 5)
    hidden = tokens
    for layer in model.mlp[::2]:
        hidden = F.gelu(F.linear(hidden, layer.weight, layer.bias))
    assert len(model.mlp) == 6
    patches = torch.einsum('bnc,codx->bnodx', hidden, model.to_pixels.weight) + model.to_pixels.bias[:, None, None]
    found = model(tokens, (12, 8))
    for token in range(6):
        row, column = divmod(token, 2)
        patch = found[:, :, 4 * row:4 * row + 4, 4 * column:4 * column + 4]
        torch.testing.assert_close(patch, patches[:, token], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('size', [(10, 7), (9, 8), (12, 5)])
def test_tokens_that_stick_out_of_the_image_are_cut(size):
    model, tokens = decoder(), torch.randn(2, 6, 5)
    with torch.no_grad():
        assert torch.equal(model(tokens, size), model(tokens, (12, 8))[:, :, :size[0], :size[1]])


def test_images_that_the_stride_does_not_divide_are_restored():
    model = distiller(SIT).eval()
    losses = model.loss([torch.randn(3, 1, 27, 22) for _ in range(2)])
    assert all(value.isfinite() for value in losses.values())


def test_mistakes():
    for name, options in (('in_channels', (0, 4)), ('encoder_stride', (8, 0)), ('out_channels', (8, 4, 0))):
        with pytest.raises(UserError, match=f'{name} of TokenDecoder must be a positive integer, got 0'):
            TokenDecoder(*options)
    with pytest.raises(UserError, match='at least 2 views of each image, got 1'):
        distiller(SIT).loss(make_views(sizes=(28, )))
    with pytest.raises(UserError, match='first 2 views of SiT must have one size'):
        distiller(SIT).loss(make_views(sizes=(28, 24)))
    with pytest.raises(UserError, match=r"backbone of SiT must be a PerViT with out_type='raw'"):
        distiller(SIT, backbone=dict(BACKBONE, out_type='featmap'))
