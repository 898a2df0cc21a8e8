"""The model of a config, with weights, none missing and none left over."""
import copy
from collections.abc import Mapping

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..utils.errors import UserError


def build(config: dict, scope: str | None) -> nn.Module:
    """Build a model.

    Args:
        config (dict): Of the model.
        scope (str, optional): The config's ``default_scope``, whose toolbox is imported. None finds only types that are
            registered at the root.

    Returns:
        nn.Module: The model, not initialized.

    Raises:
        UserError: If a type is in no registry, or a class doesn't know one of its options.
    """
    try:
        with DefaultScope.overwrite_default_scope(scope):
            return MODELS.build(config)
    except KeyError as error:  # a type in no registry, for example if its toolbox isn't installed
        raise UserError(f'the model of the config cannot be built: {error.args[0]}') from error
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        # Of a class of another package, an option of which the config has wrong; or, rarely, a bug.
        raise UserError(f'the model of the config cannot be built: {error}; see the class for what it takes') from error


def build_with_preprocessor(cfg: Config, model: dict | None = None) -> nn.Module:
    """Build the model of a config with the config's data preprocessor, as Runner does.

    Args:
        cfg (Config): Of any toolbox.
        model (dict, optional): A changed copy of ``cfg.model``. Defaults to None, ``cfg.model``.

    Returns:
        nn.Module: On the CPU, not initialized.

    Raises:
        UserError: As :func:`build`.
    """
    model = dict(cfg.model if model is None else model)
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return build(model, cfg.get('default_scope', 'mmengine'))


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load weights, none missing and none left over.

    Args:
        model (nn.Module): The model that gets the weights.
        state (Mapping[str, Tensor]): The weights.
        source (str): Where the weights are from, for the message.

    Raises:
        UserError: If a weight is missing, left over or of another shape. The message names the first ones.
    """
    own = model.state_dict()
    problems = [f'{key} is {tuple(state[key].shape)} there and {tuple(own[key].shape)} in the config'
                for key in own if key in state and state[key].shape != own[key].shape]
    if not problems:
        missing, unexpected = model.load_state_dict(state, strict=False)
        problems = [f'{key} is not in it' for key in missing] + [f'{key} is not in the config' for key in unexpected]
    if problems:
        more = f' and {len(problems) - 4} more' if len(problems) > 4 else ''
        raise UserError(f"{source} is not of this config: {'; '.join(problems[:4])}{more}: give a checkpoint of "
                        'this model, or the config that the checkpoint was trained with')


def build_model(cfg: Config, state: Mapping[str, Tensor]) -> nn.Module:
    """Build the model of a config in eval mode, with weights, none missing and none left over.

    Args:
        cfg (Config): Of any toolbox.
        state (Mapping[str, Tensor]): The weights.

    Returns:
        nn.Module: On the CPU.

    Raises:
        UserError: If the model cannot be built, or the weights don't fit it.
    """
    model = build_with_preprocessor(cfg)
    load_strictly(model, state, 'checkpoint')
    model.eval()  # not chained, because eval() of some of MMPretrain's backbones returns None
    return model
