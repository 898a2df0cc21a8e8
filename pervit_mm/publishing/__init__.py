"""The maintainers' work: publish a checkpoint, describe it, write the page of all models."""
