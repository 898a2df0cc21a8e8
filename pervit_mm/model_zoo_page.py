"""The page docs/model_zoo.md, from model-index.yml, its metafiles and checkpoints/SHA256SUMS."""
from .analysis.benchmark import markdown_table
from .checkpoints import FOLDER, PREFIX, index_entries, published

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

`python demo/image_demo.py IMAGES MODEL` takes the name of any model, for every task; one without weights needs
`--weights FILE`. After `import pervit_mm` what stands under *weights* works wherever MMEngine takes the path of a
checkpoint (`load_from`, `init_cfg`, `tools/test.py`), and in `tools/export.py`: the file comes with the package and is
loaded only if its sha256 is the published one.
Parameters and FLOPs (multiply-adds, products of attention included) are what
`python tools/analysis_tools/get_flops.py CONFIG` prints, and tests count them again: at the size that the config tests
with, or 224 x 224 px where images are of several sizes, to the logits, and of detectors without their heads.

The Fashion-MNIST models take images of any size and colour, squeezed to 28 x 28 grey pixels. They were trained on
bright items on black, so a photograph of dark clothes on white is out of their distribution.

**The `3rdparty` names have no weights.** `get_model(NAME, pretrained=True)`, `inference_model`,
`ImageClassificationInferencer` and `FeatureExtractor` only warn ("Unable to find pre-defined checkpoint of the model.")
and go on with random ones. Give them a converted file, `pretrained='pervit_tiny.pth'`.
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
    """Write the page from the model index that comes with the package.

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
