"""Reading ``init_cfg`` rules, whose ``type`` is an initializer's name, its scoped name or its class."""
from ..utils.type_names import type_name


def rule_name(rule: dict) -> str:
    """Name of a rule's initializer, without scope; MMEngine's class ``PretrainedInit`` gives ``'Pretrained'`` too.

    Args:
        rule (dict): One rule of an ``init_cfg``.

    Returns:
        str: For example ``'PeripheralInit'``; empty if the rule has no type.
    """
    name = type_name(rule)
    return 'Pretrained' if name == 'PretrainedInit' else name


def with_peripheral_init(init_cfg: dict | list[dict] | None) -> list[dict]:
    """Put ``PeripheralInit`` before a user's rules, unless they name it.

    Args:
        init_cfg (dict | list[dict], optional): The user's rules; never changed.

    Returns:
        list[dict]: A list that has the rule.
    """
    rules = [] if init_cfg is None else [init_cfg] if isinstance(init_cfg, dict) else list(init_cfg)
    if not any(rule_name(rule) == 'PeripheralInit' for rule in rules):
        rules.insert(0, dict(type='PeripheralInit'))
    return rules
