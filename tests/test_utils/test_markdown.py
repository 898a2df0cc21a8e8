"""Tables in Markdown."""
from pervit_mm.utils.markdown import markdown_table


def test_a_table_has_a_header_and_a_line_for_each_row():
    rows = [dict(a=1, b='x'), dict(a=2, b='y')]
    assert markdown_table(rows) == '| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |'
    assert markdown_table([]) == ''
