"""The report as one HTML file that needs no script, no network and no other file."""
import base64
from collections.abc import Sequence

import cv2
import jinja2
import numpy as np

from ...version import __version__
from .section import Section

_STYLE = '''
:root { color-scheme: light dark; --ink: #1b1f24; --ground: #ffffff; --soft: #59636e; --line: #d1d9e0; --card: #f6f8fa }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --ground: #0d1117; --soft: #9198a1; --line: #3d444d; --card: #151b23 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--ground);
  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; overflow-wrap: anywhere } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem }
nav ul { columns: 16rem; padding-left: 1.2rem } a { color: inherit }
figure { margin: .5rem 0; overflow-x: auto }
figure img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 4px }
figcaption { font-size: .85rem; color: var(--soft) }
figure svg { color: var(--ink); display: block }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .9rem; margin: .5rem 0;
  padding: .6rem .8rem; background: var(--card); border-radius: 6px }
dt { color: var(--soft) } dd { margin: 0 }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0 }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .8rem .2rem 0; text-align: left; white-space: nowrap }
.absent { color: var(--soft) }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr } dt { margin-top: .3rem } }
@media print {
  :root { --ink: #000; --ground: #fff; --soft: #444; --line: #999; --card: #fff }
  body { max-width: none } nav { display: none } section { break-inside: avoid-page } }
'''

_PAGE = '''<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<h1>{{ title }}</h1>
<div class="scroll"><table>
<tr>{% for cell in facts[0] %}<th scope="col">{{ cell }}</th>{% endfor %}</tr>
{% for row in facts[1] %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<p>Φc is content attention, Φp position attention, Φa the mixture of both that the model uses. Blocks count from 0.
The numbers of charts and tables are also in <code>{{ json_name }}</code>.</p>
{% if absent %}<h2 id="absent">What does not apply</h2>
<ul class="absent">{% for line in absent %}<li>{{ line }}</li>{% endfor %}</ul>{% endif %}
<nav aria-label="Figures"><ul>
{% for section in sections %}<li><a href="#{{ section.key }}">{{ section.title }}</a></li>
{% endfor %}</ul></nav>
{% for section in sections %}
<section id="{{ section.key }}">
<h2>{{ section.title }}</h2>
{% for piece in section.pieces %}<figure>{% if piece is string %}{{ piece | safe }}{% else
%}<img src="{{ piece[0] | png }}" alt="{{ piece[1] }}">
<figcaption>{{ piece[1] }}</figcaption>{% endif %}</figure>
{% endfor %}
{% for header, rows in section.tables %}<div class="scroll"><table>
<tr>{% for cell in header %}<th scope="col">{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% endfor %}
<dl>
<dt>Rule</dt><dd>{{ section.rule }}</dd>
<dt>Unit</dt><dd>{{ section.unit }}</dd>
<dt>Source</dt><dd>{{ section.source }}</dd>
<dt>Reference</dt><dd>{{ section.reference }}</dd>
<dt>It doesn't show</dt><dd>{{ section.caution }}</dd>
</dl>
</section>
{% endfor %}
<p class="absent">Made by pervit_mm {{ version }}.</p>
</body>
</html>
'''


def png_address(rgb: np.ndarray) -> str:
    """An RGB picture as a ``data:`` address."""
    encoded = cv2.imencode('.png', np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    return 'data:image/png;base64,' + base64.b64encode(encoded.tobytes()).decode()


def render(title: str, facts: tuple[Sequence[str], Sequence[Sequence[str]]], sections: Sequence[Section],
           absent: Sequence[str], json_name: str) -> str:
    """Write the page.

    Args:
        title (str): Heading.
        facts (tuple): Header and rows of the table of models.
        sections (Sequence[Section]): The figures.
        absent (Sequence[str]): What does not apply, a line each with the reason.
        json_name (str): File with the same numbers.

    Returns:
        str: HTML.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    environment.filters['png'] = png_address
    return environment.from_string(_PAGE).render(
        title=title, style=_STYLE, facts=facts, sections=sections, absent=absent, json_name=json_name,
        version=__version__)
