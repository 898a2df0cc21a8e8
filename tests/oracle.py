"""PerViT's mathematics by definition: full distance grid, exp, product, row normalization. Slow on purpose.

It is written from the formulas alone and shares no code with the package. The tests compare the package with it on
grids that the reference outputs in tests/data don't cover. It works in any dtype.
"""
import torch
import torch.nn.functional as F


def distances(hw, step, margin=0, dtype=torch.float64, device=None):
    """``(N, H + 2 * margin, W + 2 * margin)`` distances of every query to every key of the extended grid."""
    query = torch.cartesian_prod(*(torch.arange(side, device=device) for side in hw)).to(dtype)
    rows, cols = (torch.arange(-margin, side + margin, device=device).to(dtype) for side in hw)
    dy = rows[None, :, None] - query[:, 0, None, None]
    dx = cols[None, None, :] - query[:, 1, None, None]
    return step * (dy**2 + dx**2).sqrt()


def instance_norm(x, weight, bias, window=None, hw=None, margin=0, eps=1e-5):
    """Norm of ``(N, C, h, w)`` over all keys of each query, or over a ``window`` of keys around it, inside the grid."""
    if window is None:
        mean = x.mean((2, 3), keepdim=True)
        var = x.var((2, 3), correction=0, keepdim=True)
    else:
        means, variances = [], []
        sides = [min(window[a], hw[a]) for a in (0, 1)]
        for n in range(x.shape[0]):
            i, j = divmod(n, hw[1])
            top = min(max(i - sides[0] // 2, 0), hw[0] - sides[0])
            left = min(max(j - sides[1] // 2, 0), hw[1] - sides[1])
            keys = x[n, :, top:top + sides[0] + 2 * margin, left:left + sides[1] + 2 * margin]
            means.append(keys.mean((1, 2)))
            variances.append(keys.var((1, 2), correction=0))
        mean, var = (torch.stack(v)[..., None, None] for v in (means, variances))
    return (x - mean) / (var + eps).sqrt() * weight[:, None, None] + bias[:, None, None]


def position_attention(state, block, hw, dtype=torch.float64, fixed=None, prefix='', step=None):
    """Φp ``(nH, N, N)`` of one block of a PerViT state dict. ``fixed`` is the grid of distance_scale='fixed'."""
    p = f'{prefix}blocks.{block}.attn.position.'
    t = {k: v.to(dtype) for k, v in state.items() if k.startswith(p) or 'position_proj' in k}
    kernel = t[p + 'conv1.weight'].shape[-1]
    grid = fixed or hw
    if step is None:
        step = 2 / (max(grid) - 1)
    proj, bias = t[prefix + 'position_proj.weight'], t[prefix + 'position_proj.bias']
    d = distances(hw, step, 2 * (kernel // 2), dtype, proj.device)
    x = d[:, None] * proj[:, 0][:, None, None] + bias[:, None, None]
    x = F.conv2d(x, t[p + 'conv1.weight'], t[p + 'conv1.bias'])
    if p + 'norm1.weight' in t:
        x = instance_norm(x, t[p + 'norm1.weight'], t[p + 'norm1.bias'], fixed, hw, kernel // 2)
    x = F.conv2d(x.relu(), t[p + 'conv2.weight'], t[p + 'conv2.bias'])
    if p + 'norm2.weight' in t:
        x = instance_norm(x, t[p + 'norm2.weight'], t[p + 'norm2.bias'], fixed, hw)
    return x.sigmoid().flatten(2).transpose(0, 1)


def attention(q, k, v, position):
    """normalize_rows(exp(q·kᵀ/√d) ⊙ Φp)·v for ``(B, nH, N, d)``."""
    weights = (q @ k.transpose(-1, -2) / q.shape[-1]**0.5).exp() * position
    return weights / weights.sum(-1, keepdim=True) @ v


def windowed_mask(hw, window, device=None):
    """``(N, N)``, true where two tokens share a window."""
    cell = [torch.arange(side, device=device) // win for side, win in zip(hw, window)]
    index = (cell[0][:, None] * hw[1] + cell[1][None]).flatten()
    return index[:, None] == index[None]


def backbone(state, images, num_heads, dtype=torch.float64, out_indices=None, window=None, global_blocks=(),
             pretrain_hw=None, training_bn=False, positions=None):
    """Normed tokens after each of ``out_indices`` (default the last block), as a list of ``(B, N, C)``.

    With ``window``, attention is computed among *all* tokens. The weight between two windows is zero, and within a
    window Φp is read at the places of query and key in it. ``positions`` gives Φp of every block if it is known.
    """
    s = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    x = images.to(dtype)
    layer = 0
    while f'stem.layers.{layer}.conv.weight' in s:
        p = f'stem.layers.{layer}.'
        x = F.conv2d(x, s[p + 'conv.weight'], s[p + 'conv.bias'], stride=2, padding=1)
        x = F.batch_norm(x, s[p + 'norm.running_mean'].clone(), s[p + 'norm.running_var'].clone(),
                         s[p + 'norm.weight'], s[p + 'norm.bias'], training=training_bn).relu()
        layer += 1
    x = F.conv2d(x, s['stem.proj.weight'], s['stem.proj.bias'])
    hw = tuple(x.shape[2:])
    x = x.flatten(2).transpose(1, 2)
    depth = 1 + max(int(k.split('.')[1]) for k in s if k.startswith('blocks.'))
    outs = []
    for i in range(depth):
        p = f'blocks.{i}.'
        b, n, c = x.shape
        y = x.transpose(1, 2).reshape(b, c, *hw)
        y = F.conv2d(y, s[p + 'cpe.conv.weight'], s[p + 'cpe.conv.bias'], padding=1, groups=c)
        y = F.layer_norm(y.flatten(2).transpose(1, 2), (c, ), s[p + 'norm1.weight'], s[p + 'norm1.bias'], 1e-6)
        qkv = y @ s[p + 'attn.qkv.weight'].t()
        q, k, v = (t.reshape(b, n, num_heads, -1).transpose(1, 2) for t in qkv.chunk(3, -1))
        if positions is not None:
            position = positions[i]
        elif window is None or i in global_blocks:
            step = 2 / (max(pretrain_hw) - 1) if max(hw) == 1 else None
            position = position_attention(s, i, hw, dtype, step=step)
        else:
            whole = position_attention(s, i, window, dtype)
            rows, cols = (torch.arange(side, device=x.device) % win for side, win in zip(hw, window))
            place = (rows[:, None] * window[1] + cols).flatten()
            position = whole[:, place][:, :, place] * windowed_mask(hw, window, x.device)
        y = attention(q, k, v, position).transpose(1, 2).reshape(b, n, c)
        x = x + F.linear(y, s[p + 'attn.proj.weight'], s[p + 'attn.proj.bias'])
        y = F.layer_norm(x, (c, ), s[p + 'norm2.weight'], s[p + 'norm2.bias'], 1e-6)
        y = F.linear(F.gelu(F.linear(y, s[p + 'ffn.fc1.weight'], s[p + 'ffn.fc1.bias'])), s[p + 'ffn.fc2.weight'],
                     s[p + 'ffn.fc2.bias'])
        if p + 'shortcut.weight' in s:
            x = F.linear(x, s[p + 'shortcut.weight'], s[p + 'shortcut.bias'])
        x = x + y
        if i in (out_indices or [depth - 1]):
            outs.append(
                F.layer_norm(x, x.shape[-1:], s[f'norm{i}.weight'], s[f'norm{i}.bias'], 1e-6))
    return outs
