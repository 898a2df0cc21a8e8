"""Random configurations of the network against its definition: 500 of them, the same ones in every run."""
import oracle
import torch
from conftest import randomize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pervit_mm.models import PerViT


@st.composite
def configurations(draw):
    """Sizes of a network, of its training and of its images, and how it is run."""
    heads = draw(st.sampled_from([1, 2, 3]))
    stages = draw(st.integers(1, 2))
    widths = [heads * draw(st.integers(1, 4)) for _ in range(stages)]
    arch = dict(embed_dims=tuple(widths), depths=tuple(draw(st.integers(1, 2)) for _ in range(stages)), num_heads=heads,
                stem_channels=tuple(draw(st.lists(st.integers(1, 5), max_size=1))),
                mlp_ratio=draw(st.sampled_from([1, 1.5, 4])), position_channels=draw(st.integers(1, 6)))
    stride = 2**(1 + len(arch['stem_channels']))
    side = st.integers(1, 7 * stride)
    blocks = sum(arch['depths'])
    window = draw(st.none() | st.tuples(st.integers(2, 5), st.integers(2, 5)))
    # The oracle has no step for a pretraining grid of one token.
    pretrain = st.integers(stride + 1, 7 * stride)
    return dict(
        arch=arch, img_size=(draw(pretrain), draw(pretrain)), in_channels=draw(st.sampled_from([1, 3])),
        window_size=window,
        global_attn_indexes=() if window is None else tuple(draw(st.sets(st.integers(0, blocks - 1)))),
        qkv_bias=False), (draw(side), draw(side)), dict(
            train=draw(st.booleans()), with_cp=draw(st.booleans()), deploy=draw(st.booleans()),
            grad=draw(st.booleans()), again=draw(st.booleans()))


@settings(max_examples=500, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(configurations())
def test_every_configuration_computes_its_definition(case):
    """In float32, with windows, checkpointing, frozen Φp, kept Φp and images of any size."""
    options, size, run = case
    torch.manual_seed(0)
    model = randomize(PerViT(out_type='raw', with_cp=run['with_cp'], **options))
    images = torch.randn(2, options['in_channels'], *size)
    training = run['train'] and not run['deploy']
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.train(training)
    if run['deploy']:
        model.switch_to_deploy([tuple(-(-side // model.out_stride) for side in size)])
    if training and size[0] <= model.out_stride and size[1] <= model.out_stride:
        images = torch.cat([images, torch.randn_like(images)])  # BatchNorm wants more than one value
    with torch.set_grad_enabled(run['grad']):
        found = model(images)[0]
        if run['again'] and not training:
            found = model(images)[0]  # from what was kept
    expected = oracle.backbone(
        state, images, model.num_heads, window=options['window_size'], global_blocks=options['global_attn_indexes'],
        pretrain_hw=model.patch_resolution, training_bn=training)[0]
    torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=2e-4)
