#!/usr/bin/env python
"""Write docs/model_zoo.md from model-index.yml, its metafiles and checkpoints/SHA256SUMS.

    python tools/make_model_zoo.py            # write
    python tools/make_model_zoo.py --check    # only compare; exit code 1 if the page is out of date
"""
import argparse
import sys
from pathlib import Path

from pervit_mm.analysis.benchmark import markdown_table
from pervit_mm.checkpoints import FOLDER, PREFIX, index_entries, published

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'model_zoo.md'
HEAD = """# Model zoo

This page is written by `python tools/make_model_zoo.py` from [model-index.yml](../model-index.yml) and the metafiles
that it names; change those, not this page.

```python
import pervit_mm.zoo
from mmpretrain import ImageClassificationInferencer, get_model, list_models

list_models('pervit*')
model = get_model('pervit_nano_fashion-mnist', pretrained=True)
ImageClassificationInferencer('pervit_nano_fashion-mnist')('image.png')
```

`python demo/image_demo.py IMAGES MODEL` takes the name of any model with weights, for every task. After
`import pervit_mm` what stands under *weights* works wherever MMEngine takes the path of a checkpoint (`load_from`,
`init_cfg`, `tools/test.py`): the file comes with the package and is loaded only if its sha256 is the published one.
Parameters and FLOPs (multiply-adds, products of attention included) are counted, by tests too; FLOPs of detectors and
segmentors on an image of 224 x 224 px, of detectors without their heads.

The Fashion-MNIST models take images of any size and colour, squeezed to 28 x 28 grey pixels. They were trained on
bright items on black, so a photograph of dark clothes on white is out of their distribution. Without weights
MMPretrain's `get_model(..., pretrained=True)` only warns, and gives random ones.
"""


def _row(model: dict) -> dict:
    """One line of a table."""
    metadata, results = model['Metadata'], model.get('Results') or []
    metrics = [f'{name} {value}' for result in results for name, value in result['Metrics'].items()]
    weights = f'`{model["Weights"]}`' if 'Weights' in model else (
        f'none here: [convert](migration.md) what the [authors]({model["Converted From"]["Code"]}) release')
    log = f', [log](../{model["Training log"]})' if 'Training log' in model else ''
    return {'model': f'[`{model["Name"]}`](../{model["Config"]})', 'parameters': f'{metadata["Parameters"]:,}',
            'FLOPs': f'{metadata["FLOPs"] / 1e9:.3g} G' if 'FLOPs' in metadata else '',
            'results': '; '.join(metrics) or 'none stated', 'weights': weights + log}


def render() -> str:
    """The page.

    Returns:
        str: Markdown.
    """
    models = index_entries()
    parts, sums = [HEAD], published()
    data = {}
    for model in models:
        data.setdefault(model['Metadata']['Training Data'], []).append(model)
    for name, group in data.items():
        cited = any('Converted From' in model for model in group)
        parts.append(f'## {name}\n')
        if cited:
            parts.append("Results of these are the paper's, not measured here; the models are what a conversion of the "
                         "authors' files gives.\n")
        parts.append(markdown_table([_row(model) for model in group]) + '\n')
        lines = []
        for model in group:
            if 'Weights' in model:
                file = model['Weights'].removeprefix(PREFIX)
                lines.append(f'    {sums[file]}  {FOLDER}/{file}\n    {model["Metadata"]["Training Command"]}\n')
        if lines:
            parts.append('The sha256 of each file, and the command that trained it:\n\n' + '\n'.join(lines))
    return '\n'.join(parts)


def main(argv=None) -> None:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='only compare')
    args = parser.parse_args(argv)
    page = render()
    if not args.check:
        PAGE.write_text(page)
    elif not PAGE.is_file() or PAGE.read_text() != page:
        sys.exit(f'{PAGE.relative_to(ROOT)} is out of date: run python tools/make_model_zoo.py')


if __name__ == '__main__':
    main()
