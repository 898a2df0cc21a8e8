"""The version of pervit_mm, read by the package and, without importing anything, by setup.cfg."""

__version__ = '0.1.0'
