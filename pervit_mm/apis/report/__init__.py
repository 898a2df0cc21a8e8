"""The report: what a model sees, as one page and as JSON."""
from .cases import Case, make_case
from .run import report_on, split_model
from .section import View
from .write import make_report

__all__ = ['Case', 'View', 'make_case', 'make_report', 'report_on', 'split_model']
