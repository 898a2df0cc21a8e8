"""Figures of a report about features: similarity, receptive fields, and what tokens know."""
from collections.abc import Sequence

import numpy as np

from ...analysis.charts import Chart, heat_map, lines_by_block
from ...analysis.cka import CKAMatrix
from ...analysis.mosaics import map_cell, mosaic, overlay
from ...analysis.receptive_field import SHARES, area_ratios
from ...utils.errors import UserError
from .cases import Case
from .section import Section, View, cases_with, listed


def cka_section(cases: Sequence[Case], view: View) -> Section | None:
    """Similarity of blocks, in one model and between two."""
    chosen = cases_with(cases, lambda case: case.study.cka is not None)
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
    seen = [(case.names, case.labels) for case in chosen]
    if len(chosen) == 2 and seen[0] != seen[1]:
        section.rule += ' The two models saw different images, so their blocks are not compared with each other.'
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
        section.data[name] = listed(values)
    section.pieces.append(chart.svg('CKA of all pairs of blocks'))
    return section


def norms_section(cases: Sequence[Case], view: View) -> Section | None:
    """Skip against branch norms, and token uniformity."""
    section = Section(
        'tokens', 'Skip connections and uniformity of tokens',
        'Cosine: the mean over all pairs of different tokens of an image. Ratio: the norm of the skip connection over '
        'the norm of the branch that is added to it. Both are means over images.',
        'Ratio; cosine.', 'Raghu et al. 2021, section 5. Ghiasi et al. 2022, section 4, ask how alike tokens are; the '
        'cosine is ours.',
        'Ratio 1: both add equally. Cosine 1: all tokens of an image have one direction.',
        'Tokens of nearly one direction may still differ in small ways that the head reads.')
    ratios = {}
    for case in cases:
        if case.study.norms:
            for half, name in enumerate(('attention', 'FFN')):
                ratios[f'{case.name}: {name}' if len(cases) > 1 else name] = [pair[half] for pair in case.study.norms]
        section.data[case.name] = dict(norms=listed(case.study.norms), uniformity=case.study.uniformity)
    chart = Chart(2 if ratios else 1, share_y=False)
    lines_by_block(chart.axes[0], {case.name: case.study.uniformity for case in cases})
    chart.axes[0].set_ylabel('cosine between tokens')
    if ratios:
        lines_by_block(chart.axes[1], ratios)
        chart.axes[1].set_yscale('log')
        chart.axes[1].set_ylabel('skip / branch')
    section.pieces.append(chart.svg('Skip and branch norms, and uniformity of tokens, by block'))
    return section


def field_section(cases: Sequence[Case], view: View) -> Section | None:
    """Effective receptive field."""
    section = Section(
        'field', 'Effective receptive field',
        'Gradient of the positive features of the center token of the last block with respect to the pixels; positive '
        'parts, mean over at most 50 images, as log10 of the share of the largest. The table has the area of the '
        'centered square that holds a share of the sum.',
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
    chosen = cases_with(cases, lambda case: case.study.rollout is not None)
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
        section.data[case.name] = listed(case.study.rollout)
    return section


def localization_section(cases: Sequence[Case], view: View) -> Section | None:
    """Whether tokens still know their place."""
    chosen = cases_with(cases, lambda case: case.study.localization is not None)
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
    chosen = cases_with(cases, lambda case: case.cam is not None)
    if not chosen:
        return None
    section = Section(
        'single', 'What single tokens know',
        'With mean pooling and a linear head, the mean of the logits of all tokens is the logits of the model. The '
        'pictures show the logits of the predicted class by token.',
        'Logits, scaled in each image.', 'Zhou et al. 2016; Ghiasi et al. 2022, section 4.',
        'The mean over an image is the logit of the model.',
        'Each image has its own colors, so a map may look structured though its tokens hardly differ.')
    accurate = [case for case in chosen if case.single_tokens is not None]
    if accurate:
        section.rule += ' The chart has the accuracy of the head on the token at each place.'
        section.unit += ' Percent of the images of this report.'
        section.reference += ' The table has the accuracy of all tokens together, on the same images.'
        section.caution += ' With few images, some percent are chance. The best place is chosen on these images.'
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
