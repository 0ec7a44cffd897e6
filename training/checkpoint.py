"""A network with its facts: written into a checkpoint, made again from one, or started from one's weights."""

from dataclasses import asdict
from pathlib import Path

import torch

from models import create_model
from models.base import PatchClassifier
from preprocessing import Preprocessing
from selective_scan import choose
from utils import InputError, load_checkpoint

CHECKPOINT = "mim-checkpoint"


def model_facts(name: str, model: PatchClassifier) -> dict:
    """What is needed to make a network of the same form again."""
    sizes = {"n_bands": model.n_bands, "n_classes": model.n_classes, "patch_size": model.patch_size}
    options = asdict(model.options)
    if "scales" in options:
        options["scales"] = model.scales  # as resolved
    return {"name": name, **sizes, "options": options}


def check_backend(model: PatchClassifier, device: torch.device) -> None:
    """InputError where the scan back end that the model names cannot be used on the device."""
    options = asdict(model.options)
    if "scan_backend" in options:
        try:
            choose(options["scan_backend"], device.type, options["d_state"])
        except ValueError as error:
            raise InputError(f"--scan_backend: {error}") from error


def restore_weights(model: PatchClassifier, name: str, path: Path) -> None:
    """Start from a checkpoint's weights, which must be of the same network; InputError otherwise."""
    checkpoint = load_checkpoint(path, CHECKPOINT)
    theirs, ours = (_network(facts) for facts in (checkpoint["model"], model_facts(name, model)))
    differing = [fact for fact in ours if theirs.get(fact) != ours[fact]]
    if differing:
        theirs, ours = ({fact: facts.get(fact) for fact in differing} for facts in (theirs, ours))
        raise InputError(f"{path} holds another network than this run's: {theirs} there, {ours} here")
    model.load_state_dict(checkpoint["state"]["weights"])


def _network(facts: dict) -> dict:
    """The facts without those that change neither the weights nor what they do once trained."""
    return {k: v for k, v in (facts | facts["options"]).items() if k not in ("options", "dropout", "scan_backend")}


def load_trained(path: Path, device: torch.device) -> tuple[PatchClassifier, Preprocessing, dict]:
    """Make a checkpoint's network on a device, with the best scan back end there, whatever it was trained with.

    Returns:
        The network, the normalisation that it was trained on, and the whole checkpoint.
    Raises:
        InputError: no such checkpoint, or none of ours.
    """
    checkpoint = load_checkpoint(path, CHECKPOINT)
    facts = checkpoint["model"]
    options = {name: "auto" if name == "scan_backend" else value for name, value in facts["options"].items()}
    sizes = {name: facts[name] for name in ("n_bands", "n_classes", "patch_size")}
    model = create_model(facts["name"], **sizes, **options).to(device)
    model.load_state_dict(checkpoint["state"]["weights"])
    return model, Preprocessing.from_state(checkpoint["preprocessing"]), checkpoint
