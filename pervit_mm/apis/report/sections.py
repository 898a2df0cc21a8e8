"""The figures of a report, each with its rule, unit, source, reference, and what it doesn't show."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...analysis.attention import ring_of_heads
from ...analysis.charts import Chart, bars_by_block, dots_by_block, heat_map, lines_by_block, pie
from ...analysis.cka import CKAMatrix
from ...analysis.mosaics import map_cell, mosaic, overlay, side_by_side
from ...analysis.offsets import offsets_of_maps
from ...analysis.receptive_field import SHARES, area_ratios
from ...utils.errors import UserError
from .cases import Case

FACTORS = dict(position='Φp', content='Φc', attention='Φa')


@dataclass
class Section:
    """One figure of the page.

    Attributes:
        key (str): Short name, for links and JSON.
        title (str): Heading.
        rule, unit, source, reference, caution (str): One or two sentences each, below the figure.
        pieces (list): SVG (str), or (RGB picture, what a reader who can't see it is told).
        data (dict): The same as numbers.
        tables (list): (header cells, rows) below the figure.
    """
    key: str
    title: str
    rule: str
    unit: str
    source: str
    reference: str
    caution: str
    pieces: list[str | tuple[np.ndarray, str]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    tables: list[tuple[Sequence[str], Sequence[Sequence[str]]]] = field(default_factory=list)


@dataclass
class View:
    """What of the cases is drawn.

    Attributes:
        query (tuple[int, int], optional): Token whose maps are shown; None is the center.
        scale (str): 'map' or 'unit', see :func:`pervit_mm.analysis.mosaics.map_cell`.
        sort (bool): Whether heads are sorted by reach.
    """
    query: tuple[int, int] | None = None
    scale: str = 'map'
    sort: bool = False


def _listed(values: Sequence[Any]) -> list:
    return [np.asarray(value).tolist() for value in values]


def _with(cases: Sequence[Case], has: Callable[[Case], Any]) -> list[Case]:
    return [case for case in cases if has(case)]


def position_section(cases: Sequence[Case], view: View) -> Section | None:
    """Learned Φp of all blocks and heads, and their nonlocality."""
    chosen = _with(cases, lambda case: case.nonlocality is not None)
    if not chosen:
        return None
    section = Section(
        'position', 'Learned position attention Φp',
        'Each cell is Φp of one head at the query in the red frame, from the weights alone. Nonlocality is the mean '
        'over queries and keys of distance times Φp, by the definition of the authors.',
        'Cells: Φp from 0 (dark) to 1 (bright); a map with values above 1 is divided by its largest. Nonlocality: half '
        'the side of the grid, times Φp.',
        'Min et al. 2022 (PerViT), learned attention and nonlocality.',
        'The dashed line is a newly initialized model of the same config.',
        'Nonlocality mixes how far and how much: a head whose Φp is small everywhere is low, too. The attention '
        'distance below has no such mixture.')
    chart = Chart(len(chosen))
    for case, axes in zip(chosen, chart.axes):
        initial = [values.mean() for values in case.initial_nonlocality]
        dots_by_block(axes, dict(position=case.nonlocality), initial, 'initialization')
        axes.set_title(case.name, fontsize=9)
        section.pieces.append((case.position_picture, f'Φp of every block and head of {case.name}'))
        section.data[case.name] = dict(nonlocality=_listed(case.nonlocality),
                                       initialization=_listed(case.initial_nonlocality))
    chart.axes[0].set_ylabel('nonlocality')
    section.pieces.append(chart.svg('Nonlocality of each head by block'))
    return section


def distance_section(cases: Sequence[Case], view: View) -> Section | None:
    """Attention distance of all factors."""
    chosen = _with(cases, lambda case: case.study.distance)
    if not chosen:
        return None
    section = Section(
        'distance', 'How far attention looks',
        'Rows are made to sum to one. Then the distance is the sum over keys of weight times distance, and the mean '
        'over queries and images. A dot is a head.',
        'Tokens.', "d'Ascoli et al. 2021 (ConViT); Dosovitskiy et al. 2021, figure 7.",
        'The dashed line is uniform attention. A head may lie above it, if it looks past its surroundings.',
        'Two heads of equal distance may look at quite different places. Content Φc alone is what the head would do '
        'without Φp, not what another training would have learned.')
    chart = Chart(len(chosen))
    for case, axes in zip(chosen, chart.axes):
        heads = {factor: case.study.distance[factor] for factor in FACTORS if factor in case.study.distance}
        dots_by_block(axes, heads, case.study.uniform_distances())
        axes.set_title(case.name, fontsize=9)
        section.data[case.name] = {factor: _listed(values) for factor, values in heads.items()}
        section.data[case.name]['uniform'] = case.study.uniform_distances()
    chart.axes[0].set_ylabel('distance (tokens)')
    section.pieces.append(chart.svg('Attention distance of each head by block'))
    return section


def entropy_section(cases: Sequence[Case], view: View) -> Section | None:
    """Entropy of Φa."""
    chosen = _with(cases, lambda case: case.study.entropy)
    if not chosen:
        return None
    section = Section(
        'entropy', 'How sharp attention is',
        'Entropy of each row of Φa, mean over queries and images. A dot is a head.', 'Nats.',
        'Standard definition (Shannon 1948).',
        'The dashed line is log N, uniform attention. 0 is attention to one token.',
        'A sharp head need not be important: its values may be small.')
    chart = Chart(len(chosen))
    for case, axes in zip(chosen, chart.axes):
        uniform = [float(np.log(h * w)) for h, w in case.study.grids]
        dots_by_block(axes, dict(attention=case.study.entropy), uniform)
        axes.set_title(case.name, fontsize=9)
        section.data[case.name] = dict(entropy=_listed(case.study.entropy), uniform=uniform)
    chart.axes[0].set_ylabel('entropy (nats)')
    section.pieces.append(chart.svg('Entropy of each head by block'))
    return section


def ring_section(cases: Sequence[Case], view: View) -> Section | None:
    """Peripheral regions: pie for the model, bars by block, counts of heads."""
    chosen = _with(cases, lambda case: case.study.rings)
    if not chosen:
        return None
    section = Section(
        'rings', 'Peripheral regions',
        'Share of the row-normalized attention in each ring around the query, mean over queries, heads and images. The '
        'edges, in tokens, are 1.5, 3.5 and 6.5 on a grid of 14 x 14 and scale with the grid, unless others were '
        "given. This rule is ours: the paper doesn't state its own. A head is counted to the ring that holds its "
        'median distance; a head is flat if its shares are those of uniform attention to 0.02.',
        'Share of the attention.', 'The idea is of Min et al. 2022 (PerViT), the rule is ours.',
        'Uniform attention is beside the bars and in the table.',
        'Outer rings hold more tokens, and the border cuts them. Compare with the uniform shares, not between rings.')
    chart = Chart(2 * len(chosen), share_y=False)
    for number, case in enumerate(chosen):
        study, factor = case.study, 'attention'
        uniform = study.uniform_rings()
        labels = _ring_labels(study.edges[-1])
        whole = np.mean([values.mean(0).numpy() for values in study.rings[factor]], axis=0)
        pie(chart.axes[2 * number], whole, labels)
        chart.axes[2 * number].set_title(f'{case.name}: Φa, all blocks', fontsize=9)
        bars_by_block(chart.axes[2 * number + 1], [values.mean(0).numpy() for values in study.rings[factor]],
                      uniform[-1].numpy())
        chart.axes[2 * number + 1].set_ylabel('share of Φa')
        found = [ring_of_heads(values, even) for values, even in zip(study.rings[factor], uniform)]
        counts = [sum(int((rings == ring).sum()) for rings in found) for ring in range(-1, len(labels))]
        section.tables.append((
            [case.name, *labels, 'flat'],
            [['share of Φa', *(f'{100 * share:.1f} %' for share in whole), ''],
             ['uniform', *(f'{100 * share:.1f} %' for share in uniform[-1].tolist()), ''],
             ['heads', *map(str, counts[1:]), str(counts[0])]]))
        section.data[case.name] = dict(
            edges=_listed(study.edges), uniform=_listed(uniform), heads_by_ring=counts[1:], flat_heads=counts[0],
            **{name: _listed(values) for name, values in study.rings.items()})
    section.pieces.append(chart.svg('Share of attention in each ring, for the model and by block'))
    return section


def _ring_labels(edges: Sequence[float]) -> list[str]:
    inner = [f'{low:g}–{high:g}' for low, high in zip((0, *edges), edges)]
    return [*inner, f'beyond {edges[-1]:g}']


def offset_section(cases: Sequence[Case], view: View) -> Section | None:
    """Aligned maps, and heads that look to one side."""
    chosen = _with(cases, lambda case: case.study.aligned)
    if not chosen:
        return None
    section = Section(
        'offsets', 'Heads that look to one side',
        'Rows of attention, shifted so that the query is the center, and averaged over the queries that have a key '
        'there. Columns are blocks, rows are heads. A head looks to one side if the peak within 2√2 tokens is not at '
        'the query, weighs at least 0.1, and its mirror place has at most a third of it.',
        'Each cell is scaled by itself; the center is the query.',
        'Walmer et al. 2023; the coverage correction and the rule are ours.',
        'A uniform head gives a flat cell and is not counted.',
        'Far offsets are averages of few queries, and noisy.')
    for case in chosen:
        factor = 'position' if 'position' in case.study.aligned else 'attention'
        maps = case.study.aligned[factor]
        heads = max(len(values) for values in maps)
        rows = [[map_cell(values[head].numpy(), cell=48) if head < len(values) else None for values in maps]
                for head in range(heads)]
        picture = mosaic(rows, [f'head {head}' for head in range(heads)], [str(i) for i in range(len(maps))])
        section.pieces.append((picture, f'Aligned maps of {FACTORS[factor]} of {case.name}, blocks by heads'))
        found = {name: [[block, head, list(offset), weight] for block, values in enumerate(blocks)
                        for head, offset, weight in offsets_of_maps(values)]
                 for name, blocks in case.study.aligned.items()}
        section.tables.append((
            [f'{case.name}: heads', 'block', 'head', 'down', 'right', 'weight'],
            [[FACTORS[name], str(block), str(head), str(dy), str(dx), f'{weight:.2f}']
             for name, heads_found in found.items() for block, head, (dy, dx), weight in heads_found]
            or [['none', '', '', '', '', '']]))
        section.data[case.name] = dict(heads=found)
    return section


def impact_section(cases: Sequence[Case], view: View) -> Section | None:
    """Impact of position on the mixed attention."""
    chosen = _with(cases, lambda case: case.study.impact)
    if not chosen:
        return None
    section = Section(
        'impact', 'How much position decides',
        'Φa is softmax(s + log Φp). Left: share of log Φp in Var(log Φp) + Var(s) over the keys of a query; the same '
        'under the weights Φa; and Cov(log Φp, log Φp + s) / Var(log Φp + s). Right: Jensen-Shannon divergence from Φa '
        'to each factor alone, row-normalized. Means over queries, heads and images.',
        'Shares without a unit; divergence in nats, at most 0.69.', 'Ours.',
        'Share 0: Φp is flat and content decides. Share 1: Φp decides. The smaller divergence names the factor that Φa '
        'is like.',
        'A factor that varies need not help the task. Whether Φp helps accuracy is a question for a training without '
        'it.')
    chart = Chart(2 * len(chosen), share_y=False)
    for number, case in enumerate(chosen):
        means = {name: [float(value.nanmean()) for value in values] for name, values in case.study.impact.items()}
        shares, divergences = chart.axes[2 * number:2 * number + 2]
        lines_by_block(shares, {'share': means['share'], 'under Φa': means['weighted_share'],
                                'covariance share': means['covariance_share']})
        shares.set_title(case.name)
        shares.set_ylabel('share of position')
        lines_by_block(divergences, {'Φa to Φp': means['js_position'], 'Φa to Φc': means['js_content']})
        divergences.set_ylabel('divergence (nats)')
        section.data[case.name] = {name: _listed(values) for name, values in case.study.impact.items()}
    section.pieces.append(chart.svg('Impact of position on the mixed attention by block'))
    return section


def maps_section(cases: Sequence[Case], view: View) -> Section | None:
    """Φp, Φa and Φc on images."""
    chosen = _with(cases, lambda case: case.study.maps)
    if not chosen:
        return None
    scaled = 'Each map has its own colors.' if view.scale == 'map' else 'Colors go from 0 to 1 in every map.'
    section = Section(
        'maps', 'Maps on images',
        'The red frame is the query. A row is an image, with Φa ("mixed") of each head. A model with Φp also has Φc '
        f'("content") of each head behind that, and Φp, the same for all images, in the top row. {scaled}',
        'Weights of Φa and Φc sum to one over the keys. Φp is shown as it was learned, without this.',
        'Layout of Min et al. 2022 (PerViT), qualitative results.', 'A uniform map has one color.',
        'These are a few images and one query. They show what heads can look like, not what they usually do.')
    for case in chosen:
        for block, maps in case.study.maps.items():
            picture = side_by_side(case.rgb, {name: values.numpy() for name, values in maps.items()},
                                   case.study.grids[block], view.query, view.scale, view.sort)
            section.pieces.append((picture, f'Attention maps of block {block} of {case.name}'))
        section.data[case.name] = dict(blocks=sorted(case.study.maps))
    return section


def cka_section(cases: Sequence[Case], view: View) -> Section | None:
    """Similarity of blocks, in one model and between two."""
    chosen = _with(cases, lambda case: case.study.cka is not None)
    if not chosen:
        return None
    section = Section(
        'cka', 'Similarity of blocks',
        'Unbiased linear CKA of the tokens after each block, from minibatches.',
        'From about 0 (unrelated) to 1 (equal up to rotation and scale).',
        'Nguyen et al. 2021; Raghu et al. 2021; Song et al. 2012 for the unbiased estimator.',
        'Independent features have an expectation of 0. Values below 0 are noise of the estimator.',
        'High similarity is about directions of large variance. Small but important directions may differ.')
    pairs = [(case.name, case.study.cka) for case in chosen]
    cuts = [[gram.shape[-1] for gram in case.study.grams] for case in chosen]
    if len(chosen) == 2 and chosen[0].names != chosen[1].names:
        section.rule += ' The two models saw different images, so their blocks are not compared with each other.'
    elif len(chosen) == 2 and cuts[0] != cuts[1]:
        section.rule += (' The two models took their images in batches of different sizes, so their blocks are not '
                         'compared with each other.')
    elif len(chosen) == 2:
        cross = CKAMatrix()
        for a, b in zip(chosen[0].study.grams, chosen[1].study.grams):
            cross.update_grams(a, b)
        pairs.append(('the first (up) against the second', cross.result()))
    chart = Chart(len(pairs), 3.2, 2.8, share_y=False)
    for (name, values), axes in zip(pairs, chart.axes):
        heat_map(chart, axes, values.numpy(), 0, 1)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel('block')
        axes.set_ylabel('block')
        section.data[name] = _listed(values)
    section.pieces.append(chart.svg('CKA of all pairs of blocks'))
    return section


def norms_section(cases: Sequence[Case], view: View) -> Section | None:
    """Skip against branch norms, and token uniformity."""
    section = Section(
        'tokens', 'Skip connections and uniformity of tokens',
        'Left: norm of the skip connection over the norm of the branch that is added to it, mean over images. Right: '
        'mean cosine of all pairs of different tokens of an image.',
        'Ratio; cosine.', 'Raghu et al. 2021, section 5. Ghiasi et al. 2022, section 4, ask how alike tokens are; the '
        'cosine is ours.',
        'Ratio 1: both add equally. Cosine 1: all tokens of an image have one direction.',
        'Tokens of nearly one direction may still differ in small ways that the head reads.')
    chart = Chart(2, share_y=False)
    ratios = {}
    for case in cases:
        if case.study.norms:
            for half, name in enumerate(('attention', 'FFN')):
                ratios[f'{case.name}: {name}' if len(cases) > 1 else name] = [pair[half] for pair in case.study.norms]
        section.data[case.name] = dict(norms=_listed(case.study.norms), uniformity=case.study.uniformity)
    if ratios:
        lines_by_block(chart.axes[0], ratios)
        chart.axes[0].set_yscale('log')
    chart.axes[0].set_ylabel('skip / branch')
    lines_by_block(chart.axes[1], {case.name: case.study.uniformity for case in cases})
    chart.axes[1].set_ylabel('cosine between tokens')
    section.pieces.append(chart.svg('Skip and branch norms, and uniformity of tokens, by block'))
    return section


def field_section(cases: Sequence[Case], view: View) -> Section | None:
    """Effective receptive field."""
    section = Section(
        'field', 'Effective receptive field',
        'Gradient of the center token of the last block with respect to the pixels, positive parts, mean over at most '
        '50 images, as log10 of the share of the largest. The table has the area of the centered square that holds a '
        'share of the sum.',
        'Area over that of the image.', 'Luo et al. 2016; Ding et al. 2022 (RepLKNet).',
        'A uniform field has an area of about the share itself.',
        'It tells what can move the center token a little, not what the model relies on.')
    chart = Chart(len(cases), 3.2, 2.8, share_y=False)
    rows = []
    for case, axes in zip(cases, chart.axes):
        values = case.study.receptive_field.numpy()
        heat_map(chart, axes, np.log10(np.maximum(values / max(values.max(), 1e-30), 1e-6)), -4, 0, origin='upper')
        axes.set_title(case.name, fontsize=9)
        try:
            ratios = area_ratios(case.study.receptive_field)
        except UserError:  # no pixel moves the center; the picture shows it
            ratios = [float('nan')] * len(SHARES)
        rows.append([case.name, *(f'{ratio:.3f}' for ratio in ratios)])
        section.data[case.name] = dict(zip(map(str, SHARES), ratios))
    section.tables.append((['area that holds', *(f'{100 * share:g} %' for share in SHARES)], rows))
    section.pieces.append(chart.svg('Effective receptive field of the center token'))
    return section


def rollout_section(cases: Sequence[Case], view: View) -> Section | None:
    """Attention rollout over images."""
    chosen = _with(cases, lambda case: case.study.rollout is not None)
    if not chosen:
        return None
    section = Section(
        'rollout', 'Attention rollout',
        'Product over the blocks of half the mean attention and half the identity; the mean over queries, in '
        'place of the row of a class token.', 'Share, scaled in each image.',
        'Abnar and Zuidema 2020; the mean over queries is ours.',
        'A model that spreads attention evenly gives one color.',
        'It takes skip and branch for equal and ignores values and FFNs, so it is a picture and no measure.')
    for case in chosen:
        cells = [overlay(rgb, heat.numpy()) for rgb, heat in zip(case.rgb, case.study.rollout)]
        section.pieces.append((mosaic([cells]), f'Attention rollout over images, {case.name}'))
        section.data[case.name] = _listed(case.study.rollout)
    return section


def localization_section(cases: Sequence[Case], view: View) -> Section | None:
    """Whether tokens still know their place."""
    chosen = _with(cases, lambda case: case.study.localization is not None)
    if not chosen:
        return None
    section = Section(
        'localization', 'Do tokens keep their place?',
        'Unbiased CKA over images, of a token of the last block with the input patch at each place. A cell is a token, '
        'at its place; the table counts tokens whose own patch is the most similar.',
        'CKA; each cell is scaled by itself.', 'Raghu et al. 2021, spatial localization.',
        'By chance one of N tokens has its peak at its own place.',
        'Neighboring patches resemble each other, so peaks are broad even where nothing was mixed.')
    rows = []
    for case in chosen:
        values = case.study.localization
        n, h, w = values.shape
        steps = [np.unique(np.linspace(0, side - 1, min(side, 7)).round().astype(int)) for side in (h, w)]
        cells = [[map_cell(values[y * w + x].numpy(), query=(int(y), int(x)), cell=48) for x in steps[1]]
                 for y in steps[0]]
        section.pieces.append((mosaic(cells), f'CKA of tokens with patches, {case.name}'))
        defined = values.isfinite().flatten(1).any(dim=1)
        best = values.nan_to_num(nan=-2).flatten(1).argmax(dim=1)
        own = int((best == best.new_tensor(range(n)))[defined].sum())
        rows.append([case.name, f'{own} of {int(defined.sum())}'])
        section.data[case.name] = dict(own_place=own, tokens=int(defined.sum()))
    section.tables.append((['model', 'tokens most like their own patch'], rows))
    return section


def single_token_section(cases: Sequence[Case], view: View) -> Section | None:
    """Accuracy of single tokens, and the logit CAM."""
    chosen = _with(cases, lambda case: case.cam is not None)
    if not chosen:
        return None
    section = Section(
        'single', 'What single tokens know',
        'With mean pooling and a linear head, the mean of the logits of all tokens is the logits of the model. Above: '
        'accuracy of the head on the token at each place. Below: logits of the predicted class by token, over images.',
        'Percent of the images of this report; logits, scaled in each image.',
        'Ghiasi et al. 2022, section 4; Zhou et al. 2016 for the map.',
        'The table has the accuracy of all tokens together, on the same images.',
        'Few images: differences of some percent are chance. The best place is chosen on these images.')
    accurate = [case for case in chosen if case.single_tokens is not None]
    if accurate:
        chart = Chart(len(accurate), 3.0, 2.6, share_y=False)
        rows = []
        for case, axes in zip(accurate, chart.axes):
            tokens = case.single_tokens
            heat_map(chart, axes, tokens.by_place.numpy(), 0, 100, origin='upper')
            axes.set_title(case.name, fontsize=9)
            rows.append([case.name, f'{tokens.all_tokens:.1f} %', f'{tokens.mean:.1f} %', f'{tokens.max:.1f} %'])
            section.data[case.name] = dict(all_tokens=tokens.all_tokens, mean=tokens.mean, max=tokens.max,
                                           by_place=tokens.by_place.tolist())
        section.pieces.append(chart.svg('Accuracy of the token at each place'))
        section.tables.append((['model', 'all tokens', 'single, mean', 'single, best place'], rows))
    for case in chosen:
        cells = [overlay(rgb, heat.numpy()) for rgb, heat in zip(case.rgb, case.cam)]
        section.pieces.append((mosaic([cells], column_labels=[name[:16] for name in case.predicted]),
                               f'Logits of the predicted class by token, {case.name}'))
    return section


#: In the order of the page. Each takes the cases and the view, and returns None where no case has the measure.
SECTIONS = (position_section, distance_section, entropy_section, ring_section, offset_section, impact_section,
            maps_section, cka_section, norms_section, field_section, rollout_section, localization_section,
            single_token_section)
