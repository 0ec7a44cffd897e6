"""Which settings of a run have no effect on its model: flags for them are refused, and its protocol lacks them."""

from collections.abc import Iterable

from models import MODELS

FITTED = "what is fitted at once has no epochs, batches and weights"
WHOLE_SCENE = "what trains on the whole scene has no batches of patches"
PLACES = "places are no spectra"
UNUSED = {
    FITTED: (
        "epoch",
        "batch_size",
        "optimiser",
        "schedule",
        "lr",
        "weight_decay",
        "label_smoothing",
        "class_balancing",
        "flip_augmentation",
        "radiation_augmentation",
        "mixture_augmentation",
        "restore",
        "eval_weights",
        "save_every",
        "precision",
        "data_parallel",
    ),
    WHOLE_SCENE: ("batch_size", "radiation_augmentation", "mixture_augmentation", "data_parallel"),
    PLACES: ("spectral", "pca"),
}


def without_effect(model: str, context: str = "none") -> dict[str, str]:
    """Give the names of the settings that change nothing in what a model does, each with the reason in words.

    Args:
        model: a key of MODELS; of another name nothing is known, and all settings are taken to have an effect.
        context: of the class probabilities, one of `training.settings.CONTEXTS`; it looks at the spectra.
    """
    entry, reasons = MODELS.get(model), []
    if entry is not None and not entry.trained:
        reasons.append(FITTED)
    if entry is not None and entry.looks_at == "scene":
        reasons.append(WHOLE_SCENE)
    if entry is not None and entry.looks_at == "location" and context == "none":
        reasons.append(PLACES)
    return {name: reason for reason in reasons for name in UNUSED[reason]}


def unused_by(models: Iterable[str], flags: dict[str, str], context: str) -> str:
    """Say in one clause that some models do not use some flags, and why.

    Args:
        models: keys of MODELS.
        flags: names of settings, each as it is typed.
        context: as for `without_effect`.
    """
    models = [*models]
    reasons = dict.fromkeys(
        reason for model in models for name, reason in without_effect(model, context).items() if name in flags
    )
    does = "does" if len(models) == 1 else "do"
    return f"{', '.join(models)} {does} not use {', '.join(flags.values())} ({'; '.join(reasons)})"
