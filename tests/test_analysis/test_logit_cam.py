"""The mean of the logits of tokens is the logits, or the reason why not is told."""
import pytest
import torch
from conftest import TINY_ARCH, randomize
from mmengine.registry import MODELS, DefaultScope
from mmengine.utils.dl_utils import is_norm

from pervit_mm.analysis.logit_cam import logit_cam
from pervit_mm.models import PerViT
from pervit_mm.utils.errors import UserError

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.usefixtures('one_thread')
PERVIT = dict(type='PerViT', arch=TINY_ARCH, img_size=28)
VIT = dict(type='VisionTransformer', img_size=28, patch_size=4,
           arch=dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=32))
RESNET = dict(type='ResNet', depth=18, stem_channels=4, base_channels=4)
GAP, LINEAR = dict(type='GlobalAveragePooling'), dict(type='LinearClsHead')


def classifier(backbone, neck, head, width=24):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return randomize(MODELS.build(dict(
            type='mmpretrain.ImageClassifier', backbone=backbone, neck=neck,
            head=dict(num_classes=5, in_channels=width, **head)))).double().eval()


@pytest.mark.parametrize('backbone, neck, width, grid', [
    (PERVIT, None, 24, (7, 9)),
    (dict(PERVIT, out_indices=(0, 1), final_norm=False), None, 24, (7, 9)),
    (dict(PERVIT, out_type='featmap', window_size=4), GAP, 24, (7, 9)),
    (RESNET, GAP, 32, (1, 2)),
])
def test_the_mean_over_tokens_is_the_logits(backbone, neck, width, grid):
    model, images = classifier(backbone, neck, LINEAR, width), torch.randn(2, 3, 28, 36, dtype=torch.float64)
    with torch.no_grad():
        cam, logits = logit_cam(model, images), model(images)
    assert cam.shape == (2, 5, *grid) and cam.std(dim=(2, 3)).min() > 0
    torch.testing.assert_close(cam.mean(dim=(2, 3)), logits, rtol=0, atol=1e-10)


def test_each_token_has_its_place():
    """Against the tokens themselves, one at a time."""
    model, images = classifier(PERVIT, None, LINEAR), torch.randn(1, 3, 28, 36, dtype=torch.float64)
    with torch.no_grad():
        cam = logit_cam(model, images)
        model.backbone.out_type = 'featmap'
        features = model.backbone(images)[0]
        torch.testing.assert_close(cam[0, :, 2, 6], model.head((features[:, :, 2, 6], ))[0])


@pytest.mark.parametrize('backbone, neck, head, reason', [
    (VIT, None, LINEAR, 'the head reads the class token'),
    (dict(VIT, out_type='avg_featmap', with_cls_token=False), None, LINEAR, 'the norm of a mean is not the mean'),
    (dict(type='ConvNeXt', arch=dict(depths=[1, 1], channels=[8, 24])), None, LINEAR, 'the norm of a mean is not'),
    (dict(PERVIT, out_type='featmap'), None, LINEAR, r'does not get the mean of a map \(neck NoneType\)'),
    (PERVIT, None, dict(type='VisionTransformerClsHead', hidden_dim=8), r'\(LinearClsHead\), got ImageClassifier'),
])
def test_where_it_does_not_hold_the_reason_is_told(backbone, neck, head, reason):
    with pytest.raises(UserError, match=reason):
        logit_cam(classifier(backbone, neck, head), torch.randn(1, 3, 28, 28, dtype=torch.float64))


def test_a_bare_backbone_is_refused():
    with pytest.raises(UserError, match='model must be a classifier .* got PerViT'):
        logit_cam(PerViT(TINY_ARCH, img_size=28), torch.rand(1, 3, 28, 28))


def test_grad_cam_of_the_layer_that_vis_cam_picks_is_the_logit_cam():
    """MMPretrain's vis_cam.py takes the last norm. There GradCAM's weights are those of the linear head, over N."""
    model, images, seen = classifier(PERVIT, None, LINEAR), torch.randn(2, 3, 28, 28, dtype=torch.float64), []
    layer = [module for module in model.backbone.modules() if is_norm(module)][-1]
    with layer.register_forward_hook(lambda module, args, output: seen.append(output)):
        logits = model(images)
    tokens, = seen
    for k in range(5):
        weights, = torch.autograd.grad(logits[:, k].sum(), tokens, retain_graph=True)
        cam = (weights.mean(1, keepdim=True) * tokens).sum(2) * tokens.shape[1] + model.head.fc.bias[k]
        torch.testing.assert_close(cam, logit_cam(model, images)[:, k].flatten(1), atol=1e-10, rtol=0)
