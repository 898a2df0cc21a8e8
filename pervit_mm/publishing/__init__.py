"""Tools for maintainers: publish a checkpoint, describe it, write the page of all models."""
