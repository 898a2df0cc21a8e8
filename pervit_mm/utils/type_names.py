"""Names of what a config builds."""
from collections.abc import Mapping


def type_name(settings: Mapping) -> str:
    """Name of the class that a part of a config builds, without the scope of a registry.

    Args:
        settings (Mapping): With ``type``: a name, a name with a scope, or, as in MMEngine's Python-style configs, the
            class.

    Returns:
        str: For example ``'EMAHook'`` for ``'mmengine.EMAHook'``; empty without a type.
    """
    kind = settings.get('type')
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    return name.split('.')[-1]
