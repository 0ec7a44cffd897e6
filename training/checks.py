"""What can be wrong between settings, model and scene of a run; each fault is a sentence that says what to do."""

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from models import MODELS
from models.base import PatchClassifier
from pretreatment import parse_steps
from training.config import RunConfig
from training.distributed import Ranks
from utils import InputError


def check_bands(config: RunConfig, n_bands: int) -> None:
    """Raise InputError if the scene has fewer bands, or values of the pre-treated spectrum, than the model needs.

    Args:
        config: the settings.
        n_bands: of the scene.
    """
    least = MODELS[config.model].fewest_bands
    n_values = sum(2 if steps[-1] == "brightness" else n_bands for steps in parse_steps(config.spectral))
    needs = f"{config.model} needs {least} bands or more, not"
    if n_values < least:
        raise InputError(f"{needs} the {n_values} of the scene; choose another model")
    if 0 < config.pca < least:
        raise InputError(f"{needs} the {config.pca} of --pca; give a larger --pca or choose another model")


def pca_refused(config: RunConfig, fault: InputError) -> InputError:
    """Say of a number of components that is too large where it comes from, if it was not given."""
    entry = MODELS[config.model]
    if config.pca != entry.pca or not str(fault).startswith("--pca"):
        return fault
    least = f"{entry.fewest_bands} or more, or " if entry.fewest_bands > 1 else ""
    return InputError(f"{fault} ({config.pca} is the default of {config.model}; it takes {least}0 for all bands)")


def check_window(config: RunConfig, height: int, width: int) -> None:
    """Raise InputError if the model's patches are larger than the scene."""
    most, least = min(height, width), MODELS[config.model].smallest_patch
    if config.patch_size <= most:
        return
    largest = most - 1 + most % 2
    if least > largest:
        remedy = f"{config.model} needs {least} at least, so choose another model"
    else:
        sizes = f"odd sizes from {least} to {largest}" if least < largest else f"{least} alone"
        remedy = f"with {config.model} this scene allows {sizes}"
    raise InputError(
        f"--patch_size {config.patch_size} is larger than the scene of {height} x {width} pixels; {remedy}"
    )


def check_batches(config: RunConfig, model: PatchClassifier, n_train: int, ranks: Ranks) -> None:
    """Raise InputError if batches are too small for the processes that share them, or for a BatchNorm layer.

    Args:
        config: the settings.
        model: on its device.
        n_train: training pixels, which are divided as evenly as possible into as few batches as allowed.
        ranks: the processes that share each batch.
    """
    smallest = n_train // -(-n_train // config.batch_size)
    if smallest < ranks.world:
        raise InputError(
            f"a batch of {n_train:,} training pixels and --batch_size {config.batch_size} has fewer patches than "
            f"there are processes to share it, {ranks.world}; start fewer, or raise --batch_size"
        )
    if smallest == 1 and _normalises_single_values(model):
        remedy = "raise --batch_size" if n_train > 1 else "give more training pixels or choose another model"
        raise InputError(
            f"--batch_size {config.batch_size} and {n_train:,} training pixels make batches of one patch, and a "
            f"BatchNorm layer of {config.model} needs more than one value of a channel; {remedy}"
        )


def _normalises_single_values(model: PatchClassifier) -> bool:
    """Whether a BatchNorm layer gets a single value per channel if one patch is alone in a batch."""
    found: list[bool] = []
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not layers:
        return False

    def see(_, inputs):
        found.append(inputs[0].numel() == inputs[0].shape[1])

    hooks = [layer.register_forward_pre_hook(see) for layer in layers]
    trains, device = model.training, next(model.parameters()).device
    try:
        with torch.no_grad():  # in evaluation nothing is drawn, and no layer changes
            model.eval().forward_scales(torch.zeros(1, model.n_bands, *(model.patch_size,) * 2, device=device))
    finally:
        model.train(trains)
        for hook in hooks:
            hook.remove()
    return any(found)


def check_whole_scene(config: RunConfig, ranks: Ranks) -> None:
    """Refuse what changes or shares batches of patches, where the network looks at the whole scene."""
    unused = {name: getattr(config, name) for name in ("radiation_augmentation", "mixture_augmentation")}
    unused |= {"data_parallel": ranks.world > 1}
    for flag in (name for name, given in unused.items() if given):
        raise InputError(f"{config.model} trains on the whole scene, not on batches of patches; leave out --{flag}")
