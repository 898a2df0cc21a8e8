"""The page docs/model_zoo.md, from model-index.yml, its metafiles and checkpoints/SHA256SUMS."""
import textwrap

from ..checkpoints.published import FOLDER, PREFIX, index_entries, published_files
from ..utils.markdown import markdown_table

HEAD = """# Model zoo

This page lists every model with its config, size, results and weights. `python tools/make_model_zoo.py` writes it from
[model-index.yml](../model-index.yml) and its metafiles. Change those, not this page.

```python
import pervit_mm.zoo
from mmpretrain import ImageClassificationInferencer, get_model, list_models

list_models('pervit*')
model = get_model('pervit_nano_fashion-mnist', pretrained=True)
ImageClassificationInferencer('pervit_nano_fashion-mnist')('demo/item.png')
```

`python demo/image_demo.py IMAGES MODEL` takes the name of any model, for every task. A model without weights needs
`--weights FILE`.

The names under *weights* work wherever MMEngine takes the path of a checkpoint, after `import pervit_mm`: in
`load_from`, in `init_cfg` and in `tools/test.py`. `tools/export.py` takes them too. The file comes with the package. It
is loaded only if its sha256 is the published one.

`python tools/analysis_tools/get_flops.py CONFIG` counts parameters and FLOPs, and tests count them again. FLOPs are
multiply-adds, with the products of attention. The image size is that of the config's tests, or 224 x 224 px where
images are of several sizes. Classifiers and segmentors count to the logits, detectors without their heads.

The Fashion-MNIST models squeeze every image to 28 x 28 gray pixels. They were trained on bright items on black. A
photograph of dark clothes on white is out of their distribution.

Pre-trainings are networks to start from: `init_cfg=dict(type='Pretrained', checkpoint='pervit_mm://…',
prefix='teacher.module.backbone.')`, see [pre-training](pretraining.md#use-the-weights). Their result is the accuracy of
20 nearest neighbors among all training images.

**The `3rdparty` names have no weights.** `get_model(NAME, pretrained=True)`, `inference_model`,
`ImageClassificationInferencer` and `FeatureExtractor` say so and stop. Give them a converted file,
`pretrained='pervit_tiny.pth'`.
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
            'results': '; '.join(metrics) or 'none at hand', 'weights': weights + log}


def _wrapped(command: str) -> str:
    """A command over several lines, with backslashes for a shell, each of at most 115 columns."""
    return ' \\\n        '.join(textwrap.wrap(command, 105, break_long_words=False, break_on_hyphens=False))


def render() -> str:
    """Write the page from the model index that comes with the package.

    Returns:
        str: Markdown.
    """
    models = index_entries()
    parts, sums = [HEAD], published_files()
    data = {}
    for model in models:
        data.setdefault(model['Metadata']['Training Data'], []).append(model)
    for name, group in data.items():
        cited = any('Converted From' in model for model in group)
        parts.append(f'## {name}\n')
        if cited:
            parts.append("Results of these are the paper's, not measured here. The models are what a conversion of the "
                         "authors' files gives.\n")
        parts.append(markdown_table([_row(model) for model in group]) + '\n')
        lines = []
        for model in group:
            if 'Weights' in model:
                file = model['Weights'].removeprefix(PREFIX)
                lines.append(f'    {FOLDER}/{file}\n    sha256 {sums[file]}\n'
                             f'    {_wrapped(model["Metadata"]["Training Command"])}\n')
        if lines:
            parts.append('The sha256 of each file, and the command that trained it:\n\n' + '\n'.join(lines))
    return '\n'.join(parts)
