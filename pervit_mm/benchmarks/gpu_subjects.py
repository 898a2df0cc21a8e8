"""What the suite "gpu" runs. Every subject can be built on any device, at any size."""
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import ops
from ..apis.configs import load_config
from ..checkpoints import package_root
from ..engine import machine
from ..models import PerViT
from .subjects import infer

Call = Callable[[], object]


@dataclass(frozen=True)
class Subject:
    """Something to time.

    Attributes:
        part (str): What it is compared within: ratios are to the first subject of a part.
        name (str): Its name in the part.
        build (Callable): Makes the function that is timed.
        needs (float): Seconds that building and timing may take on a card. Defaults to 15.
        note (Callable, optional): Makes a remark after timing. Defaults to None.
    """

    part: str
    name: str
    build: Callable[[], Call]
    needs: float = 15.
    note: Callable[[], str] | None = None


@dataclass(frozen=True)
class Scale:
    """Where the subjects run, and how large they are.

    Attributes:
        device (str): Defaults to 'cuda'.
        batch (int): Images of a training step. Defaults to 128.
        side (int): Their height and width in pixels. Defaults to 224.
        dense (int): Height and width of the token map of a dense task, 16 pixels a token. Defaults to 64.
    """

    device: str = 'cuda'
    batch: int = 128
    side: int = 224
    dense: int = 64


def gpu_subjects(sizes: Sequence[str], scale: Scale) -> list[Subject]:
    """All subjects, what matters most first.

    Args:
        sizes (Sequence[str]): Sizes of PerViT.
        scale (Scale): Where they run, and how large they are.

    Returns:
        list[Subject]: Subjects of a part follow one another, except those of Triton. They come late, because a fault of
        a kernel of ours may end all work on the card.
    """
    grid, large = (scale.side // 16, ) * 2, (scale.dense, ) * 2
    positions = [position(f'position {size}', size, grid, None, scale) for size in sizes]
    positions.append(position(f'position, {scale.dense} x {scale.dense} tokens, one block', 'tiny', large, 1, scale))
    subjects = [by_torch for by_torch, _ in positions]
    for size in sizes:
        subjects += attention(size, scale)
    for size in sizes:
        subjects += [Subject(f'step {size}', dtype, partial(training_step, size, dtype, scale), 30)
                     for dtype in ('float16', 'bfloat16')]
    subjects += [Subject('optimizer tiny', name, partial(optimizer_step, single, scale))
                 for name, single in (('of the config', False), ('a group for each parameter', True))]
    for width in (468, 540, 684):
        subjects += [Subject(f'matrix product, {width} columns', str(inner), partial(product, inner, width, scale))
                     for inner in (width + -width % 8, width)]
    subjects += [Subject('inference tiny, 1 image', name, partial(inference, name, scale))
                 for name in ('deployed', 'kept Φp', 'Φp made anew')]
    subjects += [Subject(f'dense tiny, {scale.dense} x {scale.dense} tokens', name, partial(dense, blocks, scale), 60)
                 for name, blocks in (('windows', ()), ('four global blocks', (2, 5, 8, 11)))]
    subjects += [by_triton for _, by_triton in positions]
    subjects += [Subject(f'step {size}, compiled', dtype, partial(training_step, size, dtype, scale, True), 150)
                 for size, dtype in (('tiny', 'float16'), ('medium', 'float16')) if size in sizes]
    return subjects


@contextmanager
def fused_position(enabled: bool) -> Iterator[None]:
    """Make log Φp by the Triton kernels for a while, or by torch."""
    ops.use_fused_position(enabled)
    try:
        yield
    finally:
        ops.use_fused_position(False)


def position(part: str, size: str, grid: tuple[int, int], blocks: int | None,
             scale: Scale) -> tuple[Subject, Subject]:
    """log Φp of the first blocks, forward and backward, by torch and by Triton; with how much they differ."""

    def make() -> tuple[list[nn.Parameter], Callable[[], list[Tensor]]]:
        torch.manual_seed(0)
        model = PerViT(size, out_indices=-1 if blocks is None else blocks - 1)
        model.set_peripheral_init(dict(symmetry_noise=0.1))
        model.init_weights()
        model.to(scale.device).train()
        weights = [p for name, p in model.named_parameters() if 'position' in name and p.requires_grad]
        return weights, lambda: model.position_terms(grid)[:blocks]

    def both(terms: list[Tensor], weights: list[nn.Parameter]) -> tuple[Tensor, ...]:
        # Gradients that differ, or the last norm's would vanish.
        slopes = [torch.linspace(-1, 1, term.numel(), device=term.device).view_as(term) for term in terms]
        return torch.autograd.grad(terms, weights, slopes, allow_unused=True)

    def build(fused: bool) -> Call:
        weights, run = make()

        def call() -> None:
            with fused_position(fused):
                both(run(), weights)

        return call

    def compare() -> str:
        weights, run = make()
        found = []
        for fused in (False, True):
            with fused_position(fused):
                terms = run()
                found.append((terms, [g for g in both(terms, weights) if g is not None]))
        (terms, grads), (other_terms, other_grads) = found
        value = max((a - b).abs().max().item() for a, b in zip(terms, other_terms))
        slope = max((a - b).abs().max().item() for a, b in zip(grads, other_grads)) / max(
            g.abs().max().item() for g in grads)
        verdict = 'equal' if value < 1e-4 and slope < 1e-4 else 'NOT EQUAL'
        return f'{verdict} to torch: log Φp by {value:.1e}, gradients by {slope:.1e} of the largest'

    needs = 15 if blocks is None else 30
    return (Subject(part, 'torch', partial(build, False), needs),
            Subject(part, 'Triton', partial(build, True), needs, compare))


def attention(size: str, scale: Scale) -> list[Subject]:
    """Attention of all 12 blocks in half precision, forward and backward; then forward alone, by kernel."""
    model = PerViT(size)
    tokens = (scale.side // 16)**2

    def build(mask: str, backend: SDPBackend | None = None) -> Call:
        def randn(*shape: int, grad: bool = True) -> Tensor:
            return torch.randn(shape, device=scale.device, dtype=torch.float16, requires_grad=grad)

        grad = backend is None
        cases = []
        for block in model.blocks:
            heads = block.attn.num_heads
            shape = scale.batch, heads, tokens, block.attn.proj.in_features // heads
            position = None if mask == 'none' else randn(heads, tokens, tokens, grad=mask == 'trainable')
            cases.append(([randn(*shape, grad=grad) for _ in range(3)], position, randn(*shape, grad=False)))

        def train() -> None:
            for qkv, position, slope in cases:
                out = ops.peripheral_attention(*qkv, position)
                torch.autograd.grad(out, [t for t in (*qkv, position) if t is not None and t.requires_grad], slope)

        def forward() -> None:
            with torch.no_grad(), sdpa_kernel(backend):
                for (q, k, v), position, _ in cases:
                    q, k, v = ops.pad_head_width(q, k, v)
                    F.scaled_dot_product_attention(q, k, v, attn_mask=position[None])

        return train if grad else forward

    names = {'no mask': 'none', 'mask without gradient': 'fixed', 'trainable mask': 'trainable'}
    kernels = {'memory-efficient': SDPBackend.EFFICIENT_ATTENTION, 'cuDNN': SDPBackend.CUDNN_ATTENTION}
    return [*(Subject(f'attention {size}', name, partial(build, mask)) for name, mask in names.items()),
            *(Subject(f'attention {size}, forward', name, partial(build, 'fixed', kernel))
              for name, kernel in kernels.items())]


def _classifier(size: str, dtype: str, scale: Scale):
    """Model and optimizer wrapper of an ImageNet config, as a run on this machine has them."""
    init_default_scope('mmpretrain')
    name = f'pervit_{size}_bf16' if dtype == 'bfloat16' else f'pervit_{size}'
    cfg = load_config(package_root() / 'configs' / f'{name}.py')
    cfg.launcher = 'none'
    machine.fit_to_machine(cfg)  # mixed precision needs a GPU
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
    model.init_weights()
    model = model.to(scale.device).train()
    return model, build_optim_wrapper(model, cfg.optim_wrapper)


def training_step(size: str, dtype: str, scale: Scale, compiled: bool = False) -> Call:
    """A whole step of an ImageNet config from images on the device: Mixup or CutMix, loss, backward, optimizer."""
    from mmpretrain.structures import DataSample
    model, wrapper = _classifier(size, dtype, scale)
    if compiled:
        model.backbone.compile()
    images = torch.randint(0, 256, (scale.batch, 3, scale.side, scale.side), dtype=torch.uint8, device=scale.device)
    samples = [DataSample().set_gt_label(i % 1000) for i in range(scale.batch)]
    return lambda: model.train_step(dict(inputs=images, data_samples=samples), wrapper)


def optimizer_step(single: bool, scale: Scale) -> Call:
    """A step of AdamW on tiny, by the groups of the config or with a group for each parameter."""
    model, wrapper = _classifier('tiny', 'float16', scale)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = wrapper.optimizer
    if single:
        optimizer = type(optimizer)([dict(params=[p]) for p in model.parameters()], lr=1e-3)
    return optimizer.step


def product(inner: int, width: int, scale: Scale) -> Call:
    """Tokens of a batch times the first matrix of an FFN, of ``width`` channels padded to ``inner``."""
    tokens = scale.batch * (scale.side // 16)**2
    left = torch.randn(tokens, inner, device=scale.device, dtype=torch.float16)
    right = torch.randn(inner, 4 * width, device=scale.device, dtype=torch.float16)
    return lambda: left @ right


def inference(name: str, scale: Scale) -> Call:
    """One image by tiny in float32: deployed, with kept Φp, or with Φp made anew."""
    model = PerViT('tiny', **(dict(position_cache_bytes=0) if name == 'Φp made anew' else {}))
    model.init_weights()
    model.to(scale.device).eval()
    if name == 'deployed':
        model.switch_to_deploy([(scale.side // 16, scale.side // 16)])
    return infer(model, torch.randn(1, 3, scale.side, scale.side, device=scale.device))


def dense(global_blocks: Sequence[int], scale: Scale) -> Call:
    """Forward and backward of tiny on two large images in mixed precision, blocks recomputed, windows of 14 x 14."""
    model = PerViT('tiny', out_type='featmap', window_size='pretrain', global_attn_indexes=global_blocks, with_cp=True)
    model.init_weights()
    model.to(scale.device).train()
    side = 16 * scale.dense
    images = torch.randn(2, 3, side, side, device=scale.device)
    weights = [p for p in model.parameters() if p.requires_grad]

    def call() -> None:
        with torch.autocast('cuda', dtype=torch.float16):
            out = model(images)[0]
        torch.autograd.grad(out.float().square().mean(), weights, allow_unused=True)

    return call
