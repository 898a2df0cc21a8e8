"""What a page, or an SVG for one, must be: found with Python's own parser of HTML."""
import re
from html.parser import HTMLParser

VOID = {'meta', 'img', 'br', 'hr', 'link', 'input'}


class Page(HTMLParser):
    """Elements of a page, with whether its tags are balanced.

    Attributes:
        elements (list): (tag, attributes, tags around it).
        text (str): All text outside of style and SVG.
    """

    def __init__(self, source):
        super().__init__()
        self.source, self.elements, self.text, self.open = source, [], '', []
        self.feed(source)
        self.close()
        assert not self.open, f'never closed: {self.open}'

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f'an attribute twice in {tag}'
        self.elements.append((tag, dict(attrs), tuple(tag for tag, _ in self.open)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f'</{tag}> closes {self.open[-1:]}'
        self.open.pop()

    def handle_data(self, data):
        around = {tag for tag, _ in self.open}
        if 'svg' not in around and 'style' not in around:
            self.text += data
        if 'text' in around and data.strip():  # black text would be lost on a dark page
            assert any('currentColor' in attrs.get('style', '') for _, attrs in self.open), data

    def of(self, tag):
        """Attributes of all elements of a kind."""
        return [attrs for name, attrs, _ in self.elements if name == tag]

    def check_names(self):
        """Names are unique, and what is referred to is there."""
        ids = [attrs['id'] for _, attrs, _ in self.elements if 'id' in attrs]
        assert len(ids) == len(set(ids))
        used = [attrs[key][1:] for _, attrs, _ in self.elements for key in ('href', 'xlink:href')
                if attrs.get(key, '').startswith('#')]
        used += re.findall(r'url\(#([^)]+)\)', self.source)
        assert used and set(used) <= set(ids)
