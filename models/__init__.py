"""The networks by name. PyTorch is not imported until a network is made, so that the command line answers at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from models.options import (
    CNNOptions,
    DropoutOptions,
    MambaOptions,
    MiMOptions,
    MiMv2Options,
    MiMv3Options,
    ModelOptions,
)

if TYPE_CHECKING:
    from models.base import PatchClassifier


@dataclass(frozen=True)
class ModelEntry:
    """A network's place in the table.

    Attributes:
        module, class_name: of its class.
        options: the class of its settings, see `models.options`.
        changed: its defaults that are not those of the class.
        patch_size, pca: of its paper, which runs take if they are not given.
        smallest_patch, fewest_bands: with which it can be made.
        trained: in epochs; else it is fitted at once, see `models.classical`.
        looks_at: "patch"; "pixel": the spectrum at its centre alone; "location": row and column of that in place of the
            bands; or "scene": all of it at once. A patch size matters to the first alone.
        published: settings of a run as its authors give them, by their names in `training.config.RunConfig`.
    """

    module: str
    class_name: str
    options: type[ModelOptions] = ModelOptions
    changed: Mapping[str, Any] = field(default_factory=dict)
    patch_size: int = 7
    pca: int = 0
    smallest_patch: int = 1
    fewest_bands: int = 1
    trained: bool = True
    looks_at: str = "patch"
    published: Mapping[str, Any] = field(default_factory=dict)

    @property
    def defaults(self) -> ModelOptions:
        """The network's settings if none is changed."""
        return self.options(**self.changed)


def _recipe(optimiser: str, lr: float, epoch: int, batch_size: int, **more: Any) -> dict[str, Any]:
    """Settings of a run as a model's authors have them: a constant rate, no decay, smoothing or flips unless given."""
    common = {"schedule": "constant", "weight_decay": 0.0, "label_smoothing": 0.0, "flip_augmentation": False}
    return common | {"optimiser": optimiser, "lr": lr, "epoch": epoch, "batch_size": batch_size} | more


def _classical(class_name: str) -> ModelEntry:
    return ModelEntry("models.classical", class_name, patch_size=1, trained=False, looks_at="pixel")


MODELS = {
    "MiM": ModelEntry("models.mim", "MiM", MiMOptions, {"stem": "full", "scales": (1,)}, smallest_patch=3),
    "MiM-v1": ModelEntry("models.mim_v1", "MiMv1", MiMOptions, smallest_patch=3),
    "MiM-v2": ModelEntry("models.mim_v2", "MiMv2", MiMv2Options, smallest_patch=3),
    "MiM-v3": ModelEntry("models.mim_v3", "MiMv3", MiMv3Options, smallest_patch=3),
    "CNN": ModelEntry("models.cnn", "CNN", CNNOptions),
    # on spectra, fitted at once
    "SVM": _classical("SVM"),
    "SGD": _classical("SGD"),
    "RF": _classical("RandomForest"),
    "kNN": _classical("NearestNeighbours"),
    "LR": _classical("LogisticRegression"),
    "Location": replace(_classical("Location"), looks_at="location"),
    # on spectra, trained
    "Hu": ModelEntry("models.hu", "Hu", patch_size=1, looks_at="pixel"),
    "Mou": ModelEntry("models.mou", "Mou", patch_size=1, looks_at="pixel"),
    "NN": ModelEntry("models.nn", "NN", DropoutOptions, {"dropout": 0.0}, patch_size=1, looks_at="pixel"),
    "Boulch": ModelEntry("models.boulch", "Boulch", patch_size=1, fewest_bands=2, looks_at="pixel"),
    # convolutions
    "Hamida": ModelEntry("models.hamida", "Hamida", patch_size=5, smallest_patch=5, fewest_bands=3),
    "HybridSN": ModelEntry(
        "models.hybridsn",
        "HybridSN",
        DropoutOptions,
        {"dropout": 0.4},
        patch_size=25,
        pca=30,
        smallest_patch=9,
        fewest_bands=13,
    ),
    "SSRN": ModelEntry("models.ssrn", "SSRN", smallest_patch=3, fewest_bands=7),
    "DBDA": ModelEntry("models.dbda", "DBDA", DropoutOptions, {"dropout": 0.5}, patch_size=9, fewest_bands=7),
    "A2S2K": ModelEntry("models.a2s2k", "A2S2K", patch_size=9, smallest_patch=3, fewest_bands=7),
    "Lee": ModelEntry("models.lee", "Lee", DropoutOptions, {"dropout": 0.5}, patch_size=5, smallest_patch=3),
    "Chen": ModelEntry(
        "models.chen", "Chen", DropoutOptions, {"dropout": 0.5}, patch_size=27, smallest_patch=25, fewest_bands=94
    ),
    "Li": ModelEntry("models.li", "Li", patch_size=5, smallest_patch=5, fewest_bands=5),
    "He": ModelEntry("models.he", "He", DropoutOptions, {"dropout": 0.6}, smallest_patch=5, fewest_bands=17),
    "Luo": ModelEntry("models.luo", "Luo", patch_size=3, smallest_patch=3, fewest_bands=42),
    "Sharma": ModelEntry("models.sharma", "Sharma", DropoutOptions, {"dropout": 0.5}, patch_size=65, smallest_patch=63),
    "Liu": ModelEntry("models.liu", "Liu", patch_size=9, smallest_patch=5),
    # transformers
    "SpectralFormer": ModelEntry("models.spectralformer", "SpectralFormer", DropoutOptions),
    "SSFTT": ModelEntry(
        "models.ssftt", "SSFTT", DropoutOptions, patch_size=13, pca=30, smallest_patch=5, fewest_bands=3
    ),
    "morphFormer": ModelEntry("models.morphformer", "MorphFormer", DropoutOptions, patch_size=11, fewest_bands=9),
    "GAHT": ModelEntry("models.gaht", "GAHT"),
    # state spaces
    "Vim": ModelEntry("models.vim", "Vim", MambaOptions),
    "VMamba": ModelEntry("models.vmamba", "VMamba", MambaOptions),
    "MambaHSI": ModelEntry("models.mambahsi", "MambaHSI", MambaOptions, patch_size=1, looks_at="scene"),
    "S2Mamba": ModelEntry("models.s2mamba", "S2Mamba", MambaOptions),
    "3DSS-Mamba": ModelEntry(
        "models.dss_mamba", "DSSMamba", MambaOptions, patch_size=11, pca=30, smallest_patch=5, fewest_bands=3
    ),
}
# Read in the code of the authors (of DeepHyperX: NN to Liu; of HybridSN, SpectralFormer and morphFormer: in copies of
# it). Vim, VMamba and the models that are fitted at once have none for hyperspectral scenes; they are trained as ours.
RECIPES = {
    "NN": _recipe("adam", 1e-4, 100, 100),
    "Hu": _recipe("sgd", 0.01, 100, 100),
    "Mou": _recipe("adadelta", 1.0, 100, 100),
    "Boulch": _recipe("sgd", 1e-3, 100, 100),
    "Hamida": _recipe("sgd", 0.01, 100, 100, weight_decay=5e-4),
    "Lee": _recipe("adam", 1e-3, 200, 100),
    "Chen": _recipe("sgd", 3e-3, 400, 100),
    "Li": _recipe("sgd_momentum", 0.01, 200, 100, weight_decay=5e-4),
    "He": _recipe("adagrad", 0.01, 100, 40, weight_decay=0.01),
    "Luo": _recipe("sgd", 0.1, 100, 100, weight_decay=0.09),
    "Sharma": _recipe("sgd", 0.05, 30, 60, weight_decay=5e-4),
    "Liu": _recipe("sgd", 1e-3, 40, 100),
    "HybridSN": _recipe("adam", 1e-3, 100, 256),
    "SSRN": _recipe("rmsprop", 3e-4, 200, 16),
    "DBDA": _recipe("adam", 5e-4, 200, 16, schedule="cosine"),
    "A2S2K": _recipe("adam", 1e-3, 200, 32, schedule="cosine"),
    "SpectralFormer": _recipe("adam", 5e-4, 300, 64, weight_decay=5e-3, schedule="step"),
    "GAHT": _recipe("sgd_momentum", 1e-3, 300, 64, weight_decay=1e-4, flip_augmentation=True),
    "SSFTT": _recipe("adam", 1e-3, 100, 64),
    "morphFormer": _recipe("adam", 5e-4, 500, 64, weight_decay=5e-3, schedule="step"),
    "MambaHSI": _recipe("adam", 3e-4, 200, 64),
    "S2Mamba": _recipe("adamw", 1e-4, 400, 64, weight_decay=5e-3, schedule="exponential"),
    "3DSS-Mamba": _recipe("adam", 1e-3, 100, 64),
}
MODELS |= {name: replace(MODELS[name], published=recipe) for name, recipe in RECIPES.items()}


ALIASES = {"roy": "HybridSN", "SVM_grid": "SVM", "nearest": "kNN"}  # names of DeepHyperX for the same models


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
    if n_bands < entry.fewest_bands:
        raise ValueError(f"{name} needs {entry.fewest_bands} bands or more, not {n_bands}; choose another model")
    return getattr(import_module(entry.module), entry.class_name)(n_bands, n_classes, patch_size, settings)


def check_options(name: str, patch_size: int, **options) -> ModelOptions:
    """Give a network's settings, checked without making it; arguments and errors as for `create_model`."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; choose from {', '.join(MODELS)}")
    entry = MODELS[name]
    known = [field.name for field in fields(entry.options)]
    for option in options:
        if option not in known:
            raise ValueError(f"{name} does not use {option}; it takes {', '.join(known) or 'none'}")
    settings, least = entry.options(**{**entry.changed, **options}), entry.smallest_patch
    if patch_size < least or patch_size % 2 == 0:
        raise ValueError(f"patch_size must be odd and at least {least} for {name}, not {patch_size}")
    settings.check(patch_size)
    return settings
