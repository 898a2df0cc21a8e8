"""Figures of a report about attention and position."""
from collections.abc import Sequence

import numpy as np

from ...analysis.attention import ring_of_heads
from ...analysis.charts import NAMES, Chart, bars_by_block, dots_by_block, lines_by_block, pie
from ...analysis.mosaics import map_cell, mosaic, side_by_side
from ...analysis.offsets import offsets_of_maps
from .cases import Case
from .section import Section, View, cases_with, listed


def position_section(cases: Sequence[Case], view: View) -> Section | None:
    """Learned Φp of all blocks and heads, and their nonlocality."""
    chosen = cases_with(cases, lambda case: case.nonlocality is not None)
    if not chosen:
        return None
    section = Section(
        'position', 'Learned position attention Φp',
        'Each cell is Φp of one head at the central token (red frame) of the pretraining grid or window, from the '
        'weights alone. Nonlocality is the mean over queries and keys of distance times Φp, by the definition of the '
        'authors.',
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
        section.data[case.name] = dict(nonlocality=listed(case.nonlocality),
                                       initialization=listed(case.initial_nonlocality))
    chart.axes[0].set_ylabel('nonlocality')
    section.pieces.append(chart.svg('Nonlocality of each head by block'))
    return section


def distance_section(cases: Sequence[Case], view: View) -> Section | None:
    """Attention distance of all factors."""
    chosen = cases_with(cases, lambda case: case.study.distance)
    if not chosen:
        return None
    section = Section(
        'distance', 'How far attention looks',
        'Rows are made to sum to one. Then the distance is the sum over keys of weight times distance, and the mean '
        'over queries and images. A dot is a head.',
        'Tokens.', "d'Ascoli et al. 2021 (ConViT); Dosovitskiy et al. 2021, figure 7.",
        'The dashed line is uniform attention over the grid, or over the window of a block that has one. A head may '
        'lie above it, if it looks past its surroundings.',
        'Two heads of equal distance may look at quite different places. Content Φc alone is what the head would do '
        'without Φp, not what another training would have learned.')
    chart = Chart(len(chosen))
    for case, axes in zip(chosen, chart.axes):
        heads = {factor: case.study.distance[factor] for factor in NAMES if factor in case.study.distance}
        dots_by_block(axes, heads, case.study.uniform['distance'])
        axes.set_title(case.name, fontsize=9)
        section.data[case.name] = {factor: listed(values) for factor, values in heads.items()}
        section.data[case.name]['uniform'] = case.study.uniform['distance']
    chart.axes[0].set_ylabel('distance (tokens)')
    section.pieces.append(chart.svg('Attention distance of each head by block'))
    return section


def entropy_section(cases: Sequence[Case], view: View) -> Section | None:
    """Entropy of Φa."""
    chosen = cases_with(cases, lambda case: case.study.entropy)
    if not chosen:
        return None
    section = Section(
        'entropy', 'How sharp attention is',
        'Entropy of each row of Φa, mean over queries and images. A dot is a head.', 'Nats.',
        'Standard definition (Shannon 1948).',
        'The dashed line is uniform attention: log N with N tokens in the grid, or in the window. 0 is attention to '
        'one token.',
        'A sharp head need not be important: its values may be small.')
    chart = Chart(len(chosen))
    for case, axes in zip(chosen, chart.axes):
        uniform = case.study.uniform['entropy']
        dots_by_block(axes, dict(attention=case.study.entropy), uniform)
        axes.set_title(case.name, fontsize=9)
        section.data[case.name] = dict(entropy=listed(case.study.entropy), uniform=uniform)
    chart.axes[0].set_ylabel('entropy (nats)')
    section.pieces.append(chart.svg('Entropy of each head by block'))
    return section


def ring_section(cases: Sequence[Case], view: View) -> Section | None:
    """Peripheral regions: pie for the model, bars by block, counts of heads."""
    chosen = cases_with(cases, lambda case: case.study.rings)
    if not chosen:
        return None
    section = Section(
        'rings', 'Peripheral regions',
        'Share of the row-normalized attention in each ring around the query, mean over queries, heads and images. The '
        'edges, in tokens, are 1.5, 3.5 and 6.5 on a grid of 14 x 14 and scale with the grid, unless others were '
        "given. This rule is ours: the paper doesn't state its own. A head is counted to the ring that holds its "
        'median distance; a head is flat if its shares are those of uniform attention to 0.02.',
        'Share of the attention.', 'The idea is of Min et al. 2022 (PerViT), the rule is ours.',
        'Uniform attention is beside the bars and in the table, as a mean over the blocks.',
        'Outer rings hold more tokens, and the border cuts them. Compare with the uniform shares, not between rings.')
    chart = Chart(2 * len(chosen), share_y=False)
    for number, case in enumerate(chosen):
        study, factor = case.study, 'attention'
        uniform = study.uniform['rings']
        labels, even = _ring_labels(study.edges), np.mean([shares.numpy() for shares in uniform], axis=0)
        whole = np.mean([values.mean(0).numpy() for values in study.rings[factor]], axis=0)
        pie(chart.axes[2 * number], whole, labels)
        chart.axes[2 * number].set_title(f'{case.name}: Φa, all blocks', fontsize=9)
        bars_by_block(chart.axes[2 * number + 1], [values.mean(0).numpy() for values in study.rings[factor]],
                      even)
        chart.axes[2 * number + 1].set_ylabel('share of Φa')
        found = [ring_of_heads(*pair) for pair in zip(study.rings[factor], uniform)]
        counts = [sum(int((rings == ring).sum()) for rings in found) for ring in range(-1, len(labels))]
        section.tables.append((
            [case.name, *labels, 'flat'],
            [['share of Φa', *(f'{100 * share:.1f} %' for share in whole), ''],
             ['uniform', *(f'{100 * share:.1f} %' for share in even), ''],
             ['heads', *map(str, counts[1:]), str(counts[0])]]))
        section.data[case.name] = dict(
            edges=listed(study.edges), uniform=listed(uniform), heads_by_ring=counts[1:], flat_heads=counts[0],
            **{name: listed(values) for name, values in study.rings.items()})
    section.pieces.append(chart.svg('Share of attention in each ring, for the model and by block'))
    return section


def _ring_labels(edges: Sequence[Sequence[float]]) -> list[str]:
    """Names of the rings: their edges in tokens, or only numbers where blocks have different edges."""
    if len({*edges}) > 1:
        return [f'ring {number}' for number in range(len(edges[0]) + 1)]
    inner = [f'{low:g}–{high:g}' for low, high in zip((0, *edges[0]), edges[0])]
    return [*inner, f'beyond {edges[0][-1]:g}']


def offset_section(cases: Sequence[Case], view: View) -> Section | None:
    """Aligned maps, and heads that look to one side."""
    chosen = cases_with(cases, lambda case: case.study.aligned)
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
        section.pieces.append((picture, f'Aligned maps of {NAMES[factor]} of {case.name}, blocks by heads'))
        found = {name: [[block, head, list(offset), weight] for block, values in enumerate(blocks)
                        for head, offset, weight in offsets_of_maps(values)]
                 for name, blocks in case.study.aligned.items()}
        section.tables.append((
            [f'{case.name}: heads', 'block', 'head', 'down', 'right', 'weight'],
            [[NAMES[name], str(block), str(head), str(dy), str(dx), f'{weight:.2f}']
             for name, heads_found in found.items() for block, head, (dy, dx), weight in heads_found]
            or [['none', '', '', '', '', '']]))
        section.data[case.name] = dict(heads=found)
    return section


def impact_section(cases: Sequence[Case], view: View) -> Section | None:
    """Impact of position on the mixed attention."""
    chosen = cases_with(cases, lambda case: case.study.impact)
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
        shares.set_title(case.name, fontsize=9)
        shares.set_ylabel('share of position')
        lines_by_block(divergences, {'Φa to Φp': means['js_position'], 'Φa to Φc': means['js_content']})
        divergences.set_ylabel('divergence (nats)')
        section.data[case.name] = {name: listed(values) for name, values in case.study.impact.items()}
    section.pieces.append(chart.svg('Impact of position on the mixed attention by block'))
    return section


def maps_section(cases: Sequence[Case], view: View) -> Section | None:
    """Φp, Φa and Φc on images."""
    chosen = cases_with(cases, lambda case: case.study.maps)
    if not chosen:
        return None
    scaled = 'Each map has its own colors.' if view.scale == 'map' else 'Colors go from 0 to 1 in every map.'
    section = Section(
        'maps', 'Maps on images',
        'The red frame is the query. A row is an image, with Φa ("mixed") of each head. A model with Φp and Φc also '
        f'has Φc ("content") of each head behind that, and Φp, the same for all images, in the top row. {scaled}',
        'Weights of Φa and Φc sum to one over the keys. Φp is shown as it was learned, without this.',
        'Layout of Min et al. 2022 (PerViT), qualitative results.', 'A uniform map has one color.',
        'These are a few images and queries. They show what heads can look like, not what they usually do.')
    for case in chosen:
        for block, maps in case.study.maps.items():
            arrays = {name: values.numpy() for name, values in maps.items()}
            for query in view.queries or (None, ):
                picture = side_by_side(case.rgb, arrays, case.study.grids[block], query, view.scale, view.sort)
                where = 'the central token' if query is None else f'token {query}'
                section.pieces.append((picture, f'Attention maps of block {block} of {case.name} at {where}'))
        section.data[case.name] = dict(blocks=sorted(case.study.maps))
    return section
