"""What ``tools/benchmark.py`` measures: each suite returns the rows of one table.

A suite takes :class:`Settings` and ``oracle``, a module with the network by its definition, which some suites compare
with.
"""
import copy
from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.registry import init_default_scope

from ..apis.flops import count_flops
from ..models.position import DistanceProjection, PerViTPeripheralPosition, PositionInit
from ..ops import peripheral_attention
from ..utils.errors import UserError
from .gpu import gpu
from .loading import loader
from .pretraining import nearest_neighbors, pretraining, pretraining_step
from .settings import Rows, Settings, row
from .subjects import RIVALS, ConstantPosition, by_definition, detector_step, device, infer, pervit, rival, step
from .timing import interleave


def inference(settings: Settings, oracle: ModuleType) -> Rows:
    """Images and FLOPs per second at each size in ``pixels``; ratio: time over that of the first rival."""
    init_default_scope('mmpretrain')
    rows = []
    for size in settings.sizes:
        for side in settings.pixels:
            batches = settings.batches_or(1, 16, 32) if side == 224 else (4, )
            models, flops = _inference_subjects(size, side, oracle)
            for batch in batches:
                images = torch.randn(batch, 3, side, side, device=device())
                timings = interleave({name: infer(model, images) for name, model in models.items()}, settings.repeats)
                for name, timing in timings.items():
                    rate = batch / timing.median
                    rows.append(row(timing, model=name, pixels=side, batch=batch, **{
                        'images/s': f'{rate:.1f}', 'GFLOPs': f'{flops[name] / 1e9:.2f}',
                        'GFLOP/s': f'{rate * flops[name] / 1e9:.1f}'}))
    return rows


def _inference_subjects(size: str, side: int, oracle: ModuleType) -> tuple[dict[str, Callable], dict[str, int]]:
    """Models by name, and their FLOPs for one image."""
    live = pervit(size, img_size=side).eval()
    deployed = copy.deepcopy(live)
    deployed.switch_to_deploy()
    state = dict(live.state_dict())
    with torch.no_grad():
        positions = [log_position.exp() for log_position in live.position_terms(live.patch_resolution)]
    windows = {'window_size': 12} if side == 384 else {}  # Swin's own window for 384 px
    models: dict[str, Callable] = {
        **{name: rival({**cfg, 'img_size': side, **(windows if 'Swin' in name else {})})
           for name, cfg in RIVALS[size].items()},
        f'PerViT {size}, deployed': deployed,
        f'PerViT {size}, kept Φp': live,
        f'PerViT {size}, no Φp': pervit(size, img_size=side, position_cfg=None).eval(),
    }
    flops = {name: count_flops(model, (3, side, side)).flops for name, model in models.items()}
    for name, kept in (('oracle, kept Φp', positions), ('oracle', None)):
        models[name] = partial(by_definition, oracle, state, live.num_heads, kept)
        flops[name] = flops[f'PerViT {size}, kept Φp']
    return models, flops


def training(settings: Settings, oracle: ModuleType) -> Rows:
    """One forward and backward pass at 224 px; ratio: time over that with a constant mask that requires a gradient."""
    rows = []
    for size in settings.sizes:
        live = pervit(size).train()
        constant = copy.deepcopy(live)
        for block, log_position in zip(constant.blocks, live.position_terms((14, 14))):
            block.attn.position = ConstantPosition(log_position)
        constant.position_proj = None
        buffers = dict(live.named_buffers())

        def by_definition(images, live=live, buffers=buffers):
            state = {**dict(live.named_parameters()), **buffers}
            return oracle.backbone(state, images, live.num_heads, torch.float32, training_bn=True)[0].mean(1)

        for batch in settings.batches_or(16, 32):
            images = torch.randn(batch, 3, 224, 224, device=device())
            subjects = {
                f'PerViT {size}, constant mask': step(constant, images),
                f'PerViT {size}': step(live, images),
                f'PerViT {size}, no Φp': step(pervit(size, position_cfg=None).train(), images),
                f'oracle {size}': step(live, images, by_definition),
            }
            for name, timing in interleave(subjects, settings.repeats, warmup=1).items():
                rows.append(row(timing, model=name, batch=batch))
    return rows


def attention(settings: Settings, oracle: ModuleType) -> Rows:
    """Attention alone, forward and backward, B16 h8 N196 d40; ratio: time over that without a mask."""
    q, k, v = (torch.randn(16, 8, 196, 40, device=device(), requires_grad=True) for _ in range(3))
    fixed = torch.randn(8, 196, 196, device=device())
    mask = fixed.clone().requires_grad_()
    grad = torch.randn(16, 8, 196, 40, device=device())

    def run(attend):
        def call():
            for tensor in (q, k, v, mask):
                tensor.grad = None
            attend().backward(grad)

        return call

    subjects = {
        'no mask': run(lambda: F.scaled_dot_product_attention(q, k, v)),
        'mask without gradient': run(lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=fixed[None])),
        'trainable mask, ours': run(lambda: peripheral_attention(q, k, v, mask)),
        "trainable mask, torch's": run(lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None])),
    }
    return [row(timing, attention=name) for name, timing in interleave(subjects, max(settings.repeats, 15)).items()]


def _position_subjects(oracle: ModuleType | None) -> dict[str, Callable[[], None]]:
    """Functions that compute log Φp of one block on a 32 x 32 grid with 8 heads, forward and backward."""
    module = PerViTPeripheralPosition(8, 32, (14, 14)).to(device())
    projection = DistanceProjection(32).to(device())
    module.init_position(PositionInit(-5., 3., noise=0.1))
    projection.init_position(noise=0.1)
    params = [*module.parameters(), *projection.parameters()]

    def clear():
        for param in params:
            param.grad = None

    def ours():
        clear()
        module((32, 32), projection).mean().backward()

    def full():
        clear()
        state = {f'blocks.0.attn.position.{k}': v for k, v in module.named_parameters()}
        state.update({f'position_proj.{k}': v for k, v in projection.named_parameters()})
        oracle.position_attention(state, 0, (32, 32), torch.float32).mean().backward()

    return {'full form': full, 'ours': ours}


def position(settings: Settings, oracle: ModuleType) -> Rows:
    """The position network on a 32 x 32 grid, 8 heads, one block, forward and backward; ratio: over the full form."""
    timings = interleave(_position_subjects(oracle), settings.repeats)
    memory = {name: settings.first_call(f'position/{name}')['peak_mib'] for name in timings}
    base = memory['full form']
    return [
        row(timing, form=name, **{'peak MiB': f'{memory[name]:.0f}', 'peak ratio': f'{memory[name] / base:.3f}'})
        for name, timing in timings.items()
    ]


def _dense_model(kind: str) -> nn.Module:
    windows = dict(window_size='pretrain') if kind == 'windows' else {}
    return pervit('tiny', out_type='featmap', **windows).eval()


def _dense_case(kind: str, side: int, frozen: bool) -> Callable[[], None]:
    model = _dense_model(kind)
    if frozen:
        model.switch_to_deploy([(side // 16, side // 16)])
    return infer(model, torch.randn(1, 3, side, side, device=device()))


def dense(settings: Settings, oracle: ModuleType) -> Rows:
    """Backbone alone on large images, inference, batch 1, Φp frozen; ratio: over windows at 672 px.

    log Φp of 7,056 tokens for 12 blocks takes 9.6 GB, far more than the default limit of what is kept between calls. So
    "live" global attention at 1344 px, without freezing, makes it again for every image. Memory counts the model and
    the frozen Φp.
    """
    cases = [('windows', 672), ('windows', 1344), ('global', 672), ('global', 1344)]
    models, subjects = {kind: _dense_model(kind) for kind in ('windows', 'global')}, {}
    for model in models.values():
        model.switch_to_deploy([(42, 42), (84, 84)])
    for kind, side in cases:
        subjects[f'{kind} {side}'] = infer(models[kind], torch.randn(1, 3, side, side, device=device()))
    timings = interleave(subjects, settings.repeats, warmup=1)
    models.clear(), subjects.clear()  # the next processes need the memory
    rows = []
    for kind, side in cases:
        timing = timings[f'{kind} {side}']
        first = {state: settings.first_call(f'dense/{kind}/{side}/{state}')
                 for state in ('frozen', 'live')}
        rows.append(row(timing, attention=kind, pixels=f'{side} x {side}', **{
            'ms/token': f'{1000 * timing.median / (side // 16)**2:.4f}',
            'peak MiB': f'{first["frozen"]["peak_mib"]:.0f}', 'live: peak MiB': f'{first["live"]["peak_mib"]:.0f}',
            'live: first call s': f'{first["live"]["seconds"]:.1f}'}))
    return rows


def detection(settings: Settings, oracle: ModuleType) -> Rows:
    """One training step of Mask R-CNN with PerViT-S on one image, blocks recomputed, each in a process of its own.

    The first call is timed. Ratio: over windows on the smallest image.
    """
    rows, base = [], None
    for kind in ('windows', 'global'):
        for height, width in ((672, 672), (800, 1344), (1344, 1344)):
            case = settings.first_call(f'detection/{kind}/{height}/{width}')
            base = base or case['seconds']
            tokens = (height // 16) * (width // 16)
            rows.append({
                'attention': kind, 'pixels': f'{height} x {width}', 'tokens': tokens, 's': f'{case["seconds"]:.1f}',
                'ratio': f'{case["seconds"] / base:.2f}', 'ms/token': f'{1000 * case["seconds"] / tokens:.3f}',
                'peak GiB': f'{case["peak_mib"] / 1024:.2f}'})
    return rows


def bf16(settings: Settings, oracle: ModuleType) -> Rows:
    """Deployed inference under bf16 autocast; ratio: time over float32."""
    rows = []
    for size in settings.sizes:
        model = pervit(size).eval()
        model.switch_to_deploy()
        images = torch.randn(settings.batches_or(16)[0], 3, 224, 224, device=device())

        def half(model=model, images=images):
            with torch.no_grad(), torch.autocast(device(), dtype=torch.bfloat16):
                model(images)

        for name, timing in interleave({'float32': infer(model, images), 'bf16': half}, settings.repeats).items():
            rows.append(row(timing, model=f'PerViT {size}', precision=name, batch=len(images)))
    return rows


def compiled(settings: Settings, oracle: ModuleType) -> Rows:
    """torch.compile without graph breaks (fullgraph); ratio: time over eager.

    Graphs are counted over batches of the given size and of 2 and 4 more. 2 graphs mean one recompilation. (torch's
    convolution also compiles again when a batch gets smaller than 16.)
    """
    rows = []
    for size in settings.sizes:
        batch = settings.batches_or(16)[0]
        images = torch.randn(batch, 3, 224, 224, device=device())
        deployed = pervit(size).eval()
        deployed.switch_to_deploy()
        trained = pervit(size).train()
        for what, model, make in (('deployed inference', deployed, infer), ('training step', trained, step)):
            graphs: list[int] = []
            fast = torch.compile(model, fullgraph=True, backend=partial(_counted, graphs))
            timings = interleave({'eager': make(model, images), 'compiled': _compiled_call(make, model, fast, images)},
                                 settings.repeats)
            for other in (batch + 2, batch + 4):
                _compiled_call(make, model, fast, torch.randn(other, 3, 224, 224, device=device()))()
            for name, timing in timings.items():
                rows.append(row(timing, model=f'PerViT {size}', work=what, mode=name, batch=batch,
                                 graphs=len(graphs) if name == 'compiled' else ''))
    return rows


def _counted(graphs: list[int], module, inputs):
    """torch's default compiler, which adds an entry to ``graphs`` at each call."""
    graphs.append(1)
    return torch._dynamo.lookup_backend('inductor')(module, inputs)


def _compiled_call(make: Callable, model: nn.Module, fast: Callable, images: torch.Tensor) -> Callable[[], None]:
    return infer(fast, images) if make is infer else step(model, images, lambda x: fast(x)[0])


SUITES: dict[str, Callable[[Settings, ModuleType], Rows]] = dict(
    inference=inference, training=training, attention=attention, position=position, dense=dense, detection=detection,
    bf16=bf16, compile=compiled, pretraining=pretraining, loader=loader, gpu=gpu)


def memory_case(name: str, oracle: ModuleType | None = None) -> Callable[[], Callable[[], None]]:
    """What a new process builds and calls once, to measure peak memory.

    Args:
        name (str): 'position/FORM', 'dense/KIND/PIXELS/STATE', 'detection/KIND/HEIGHT/WIDTH' or
            'pretraining/WORK/BATCH'.
        oracle (ModuleType, optional): The by-definition form, for 'position/full form'. Defaults to None.

    Returns:
        Callable: Builds the case and returns the function to call.

    Raises:
        UserError: If there is no such case.
    """
    suite, *rest = name.split('/')
    if suite == 'position':
        return lambda: _position_subjects(oracle)[rest[0]]
    if suite == 'dense':
        return lambda: _dense_case(rest[0], int(rest[1]), rest[2] == 'frozen')
    if suite == 'detection':
        return lambda: detector_step(rest[0], int(rest[1]), int(rest[2]))
    if suite == 'pretraining':
        return nearest_neighbors if rest[0] == 'k-NN' else lambda: pretraining_step(rest[0], int(rest[1]))
    raise UserError("memory case must be 'position/FORM', 'dense/KIND/PIXELS/STATE', 'detection/KIND/HEIGHT/WIDTH' or "
                    f"'pretraining/WORK/BATCH', got {name!r}")
