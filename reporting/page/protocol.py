"""A run's protocol in readable words."""

from reporting.run_folder import Run

# Group, then label and key in the protocol of metrics.json; other entries are shown under their own names.
GROUPS = {
    "Scene": {
        "Scene": "scene",
        "Size": "size",
        "Classes": "model.n_classes",
        "Cube, SHA-256": "fingerprints.cube",
        "Ground truth, SHA-256": "fingerprints.ground_truth",
    },
    "Split and masks": {
        "Split": "split",
        "Training pixels": "n_train",
        "Validation pixels": "n_validation",
        "Test pixels": "n_test",
        "Border of the scene": "border",
        "Test pixels left out at the edge": "border_test_pixels_skipped",
        "Pixels left out as a buffer": "guard_pixels_dropped",
        "Test pixels left out, class not in training": "unlearned_test_pixels_dropped",
        "Pixels left out, class in one region": "single_region_pixels_dropped",
        "Test pixels with a training pixel in their window": "audit.train_pixel_in_window",
        "Test windows that overlap a training window": "audit.train_window_overlap",
        "Test pixels with a training pixel's spectrum": "audit.duplicates",
        "Test pixels in a region with a training pixel": "audit.test_in_trained_region",
        "Right by location alone (nearest training pixel)": "audit.location_accuracy",
        "Distance to the nearest training pixel, median": "audit.distance_median",
        "Distance to the nearest training pixel, at most": "audit.distance_maximum",
        "Masks, SHA-256": "fingerprints.masks",
        "Split as used, SHA-256": "fingerprints.split",
        "Notes": "notes",
    },
    "Preprocessing": {
        "Spectral pre-treatment": "spectral",
        "Normalisation": "normalize",
        "Fitted on": "fit_on",
        "Principal components": "pca",
        "Bands or components into the model": "model.n_bands",
    },
    "Context": {
        "Kind": "context.kind",
        "Side of its window": "context.size",
        "Decay by place, standard deviation in pixels": "context.spread",
        "Decay by feature, standard deviation": "context.similarity",
    },
    "Model": {
        "Model": "model.name",
        "Patch size": "model.patch_size",
        "Parameters": "n_parameters",
        "FLOPs per patch": "flops_per_patch",
    },
    "Recipe": {
        "Seed": "seed",
        "Epochs": "recipe.epochs",
        "Batch size": "batch_size",
        "Processes per batch": "processes",
        "Optimiser": "recipe.optimiser",
        "Schedule of the learning rate": "recipe.schedule",
        "Highest learning rate": "recipe.lr",
        "Weight decay": "recipe.weight_decay",
        "Label smoothing": "recipe.label_smoothing",
        "Largest gradient norm": "recipe.max_norm",
        "Precision": "recipe.precision",
        "Class weights": "recipe.class_weights",
        "Weights evaluated": "weights",
        "Weights started from": "restored_from",
    },
    "Machine and versions": {
        "Device": "machine.device",
        "Threads": "machine.threads",
        "Execution": "machine.execution",
        "MiM": "machine.mim",
        "Python": "machine.python",
        "PyTorch": "machine.torch",
        "CUDA": "machine.cuda",
        "NumPy": "machine.numpy",
        "Platform": "machine.platform",
        "Git commit": "machine.git_commit",
    },
}
REST = {  # group of the entries that GROUPS does not name
    "fingerprints": "Scene",
    "audit": "Split and masks",
    "model": "Model",
    "recipe": "Recipe",
    "augmentation": "Recipe",
    "machine": "Machine and versions",
}
OF_EPOCHS = ("recipe.epochs", "batch_size", "processes", "augmentation", "weights", "restored_from")
FRACTIONS = {
    *("audit.train_pixel_in_window", "audit.train_window_overlap", "audit.duplicates"),
    *("audit.test_in_trained_region", "audit.location_accuracy"),
}


def protocol_groups(run: Run) -> dict[str, list[tuple[str, str | list[str]]]]:
    """Describe the protocol of a run.

    Args:
        run: the run.
    Returns:
        Pairs of label and text by group; a list holds several sentences.
    """
    facts = dict(_flat(run.protocol))
    facts.pop("audit.patch_size", None)  # the model has it too
    if not run.protocol["recipe"]["epochs"]:  # a classifier that is fitted at once has none of these
        facts = {name: value for name, value in facts.items() if name not in OF_EPOCHS}
    facts["size"] = "{} × {} pixels (rows × columns)".format(*run.prediction.shape)
    facts |= {name: run.metrics[name] for name in ("n_train", "n_test", "n_parameters", "flops_per_patch")}
    groups = {
        title: [(label, _words(key, facts.pop(key))) for label, key in entries.items() if key in facts]
        for title, entries in GROUPS.items()
    }
    for key, value in facts.items():
        head, _, tail = key.partition(".")
        if tail.startswith("options."):
            label = tail.removeprefix("options.")  # the name of the flag
        else:
            label = _capital((tail or head).replace(".", " ").replace("_", " "))
        label = f"{label} augmentation" if head == "augmentation" else label
        groups.setdefault(REST.get(head, "Further settings"), []).append((label, _words(key, value)))
    return {title: entries for title, entries in groups.items() if entries}


def _flat(facts: dict, before: str = ""):
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value


def _words(key: str, value) -> str | list[str]:
    if key == "notes":
        return [_capital(str(note)) for note in value] or "none"
    if value is None or value in ({}, []):
        return "none"
    if key == "pca" and not value:
        return "none, all bands are kept"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(_words("", each)) for each in value)
    if isinstance(value, int) and key != "seed":
        return f"{value:,}"
    if isinstance(value, float):
        return f"{100 * value:.1f} %" if key in FRACTIONS else f"{value:.6g}"
    return str(value)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
