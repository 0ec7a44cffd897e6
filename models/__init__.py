"""The networks by name."""

from dataclasses import fields, replace

from models.base import PatchClassifier
from models.cnn import CNN
from models.mim_v1 import MiMv1
from models.mim_v2 import MiMv2
from models.mim_v3 import MiMv3

MODELS = {"MiM-v1": MiMv1, "MiM-v2": MiMv2, "MiM-v3": MiMv3, "CNN": CNN}


def create_model(name: str, *, n_bands: int, n_classes: int, patch_size: int, **options) -> PatchClassifier:
    """Make a network by its name.

    Args:
        name: a key of MODELS.
        n_bands, n_classes: channels of a patch, and classes to tell apart.
        patch_size: side of a patch, odd.
        options: changes to the network's defaults (`MODELS[name].defaults`).
    Returns:
        The network, with freshly drawn weights.
    Raises:
        ValueError: an unknown name or option (the choices are named), or a value that does not fit.
    """
    settings = check_options(name, patch_size, **options)
    return MODELS[name](n_bands, n_classes, patch_size, settings)


def check_options(name: str, patch_size: int, **options):
    """Give a network's settings, checked without making it; arguments and errors as for `create_model`."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; choose from {', '.join(MODELS)}")
    model = MODELS[name]
    known = [field.name for field in fields(model.defaults)]
    for option in options:
        if option not in known:
            raise ValueError(f"{name} does not use --{option}; it takes {', '.join('--' + name for name in known)}")
    settings = replace(model.defaults, **options)
    model.check(patch_size, settings)
    return settings
