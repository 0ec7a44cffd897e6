"""The networks by name. PyTorch is not imported until a network is made, so that the command line answers at once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING

from models.options import CNNOptions, MiMOptions, MiMv2Options, MiMv3Options, ModelOptions

if TYPE_CHECKING:
    from models.base import PatchClassifier


@dataclass(frozen=True)
class ModelEntry:
    """A network's place in the table.

    Attributes:
        module, class_name: of its class.
        options: the class of its settings, see `models.options`.
    """

    module: str
    class_name: str
    options: type[ModelOptions]

    @property
    def defaults(self) -> ModelOptions:
        """The network's settings if none is changed."""
        return self.options()


MODELS = {
    "MiM-v1": ModelEntry("models.mim_v1", "MiMv1", MiMOptions),
    "MiM-v2": ModelEntry("models.mim_v2", "MiMv2", MiMv2Options),
    "MiM-v3": ModelEntry("models.mim_v3", "MiMv3", MiMv3Options),
    "CNN": ModelEntry("models.cnn", "CNN", CNNOptions),
}


def create_model(name: str, *, n_bands: int, n_classes: int, patch_size: int, **options) -> PatchClassifier:
    """Make a network by its name.

    Args:
        name: a key of MODELS.
        n_bands, n_classes: channels of a patch, and classes.
        patch_size: side of a patch, odd.
        options: changes to the network's defaults (`MODELS[name].defaults`).
    Returns:
        The network, with freshly drawn weights.
    Raises:
        ValueError: an unknown name or option (the choices are named), or a value that does not fit.
    """
    settings = check_options(name, patch_size, **options)
    entry = MODELS[name]
    return getattr(import_module(entry.module), entry.class_name)(n_bands, n_classes, patch_size, settings)


def check_options(name: str, patch_size: int, **options) -> ModelOptions:
    """Give a network's settings, checked without making it; arguments and errors as for `create_model`."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; choose from {', '.join(MODELS)}")
    entry = MODELS[name]
    known = [field.name for field in fields(entry.options)]
    for option in options:
        if option not in known:
            raise ValueError(f"{name} does not use {option}; it takes {', '.join(known)}")
    settings, least = entry.options(**options), entry.options.smallest_patch
    if patch_size < least or patch_size % 2 == 0:
        raise ValueError(f"patch_size must be odd and at least {least} for {name}, not {patch_size}")
    settings.check(patch_size)
    return settings
