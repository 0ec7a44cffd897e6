"""Measure how far a split tests unseen land: overlap, common windows, distances, duplicates, numbering."""

import logging

import numpy as np
from scipy.ndimage import distance_transform_cdt

from datasets import Scene
from splits.regions import in_trained_region, location_accuracy
from splits.split import Split
from utils import fingerprint

PATCH_SIZES = tuple(range(3, 22, 2))
log = logging.getLogger("mim")


def distance_to(mask: np.ndarray) -> np.ndarray:
    """Compute the chessboard distance of every pixel to the nearest pixel of a mask.

    Args:
        mask: (H, W), not 0 on at least one pixel.
    Returns:
        (H, W) int64, in pixels; 0 on the mask.
    Raises:
        ValueError: an empty mask.
    """
    if not np.any(mask):
        raise ValueError("there is no distance to an empty mask")
    return np.asarray(distance_transform_cdt(mask == 0, "chessboard"), dtype=np.int64)


def overlap_fractions(distance: np.ndarray, patch_size: int) -> tuple[float, float]:
    """Compute the fractions of test pixels whose window holds a training pixel, and overlaps a training window.

    Args:
        distance: of the test pixels to the nearest training pixel, (n,), in pixels.
        patch_size: side P of the windows, odd: they reach P // 2 from their centre, and two overlap if their centres
            are less than P apart.
    """
    return float((distance <= patch_size // 2).mean()), float((distance < patch_size).mean())


def count_duplicates(cube: np.ndarray, train: np.ndarray, test: np.ndarray) -> int:
    """Count the test pixels whose spectrum equals that of a training pixel in every value.

    Args:
        cube: (H, W, n_bands) as read.
        train, test: (H, W), not 0 on their pixels.
    """
    trained = {spectrum.tobytes() for spectrum in cube[train > 0] + 0}  # + 0 makes -0 and 0 the same bytes
    return sum(spectrum.tobytes() in trained for spectrum in cube[test > 0] + 0)


def brief(split: Split, cube: np.ndarray, patch_size: int) -> dict:
    """Measure the short form for a run's protocol; fractions of the test pixels, distances in pixels."""
    distance = distance_to(split.train)[split.test > 0]
    in_window, overlap = overlap_fractions(distance, patch_size)
    in_region, *_ = in_trained_region(_with_dropped(split), split.train, split.test)
    return {
        "patch_size": patch_size,
        "train_pixel_in_window": in_window,
        "train_window_overlap": overlap,
        "distance_median": float(np.median(distance)),
        "distance_maximum": int(distance.max()),
        "duplicates": count_duplicates(cube, split.train, split.test) / len(distance),
        "location_accuracy": location_accuracy(split.train, split.test),
        "test_in_trained_region": in_region,
    }


def brief_sentence(facts: dict, *, windows: bool = True) -> str:
    """Say the short form in one sentence, without what it says of windows if the network has none."""
    side = f"{facts['patch_size']} x {facts['patch_size']}"
    of_windows = (
        f"{_per_cent(facts['train_pixel_in_window'])} of the test pixels have a training pixel in their {side} window; "
        f"{_per_cent(facts['train_window_overlap'])} of the windows overlap that of a training pixel; "
    )
    return (of_windows if windows else "") + (
        "the nearest training pixel is "
        f"{facts['distance_median']:g} away in the median and {facts['distance_maximum']} at most; "
        f"{_per_cent(facts['duplicates'])} of the test pixels have exactly the spectrum of a training pixel; the label "
        f"of the nearest training pixel, without any spectrum, is right for {_per_cent(facts['location_accuracy'])}"
    )


def examine(split: Split, scene: Scene, patch_size: int, faults: list[str] | None = None) -> dict:
    """Measure everything that needs no training.

    Args:
        split: training and test pixels overlap only if `faults` say so.
        scene: cube and ground truth may be None.
        patch_size: P, measured beside PATCH_SIZES.
        faults: sentences of `splits.fixed_masks.load_split`.
    Returns:
        The entries of audit.json; fractions of the test pixels, distances in pixels, None for what could not be
        measured.
    """
    train, test = split.train, split.test
    distance = distance_to(train)[test > 0]
    fractions = {str(size): overlap_fractions(distance, size) for size in sorted({*PATCH_SIZES, patch_size})}
    steps, n_at = np.unique(distance, return_counts=True)
    in_region, n_regions, n_trained = in_trained_region(_with_dropped(split), train, test)
    findings = {
        "scene": scene.spec.name,
        "split": split.method,
        "fingerprints": {"ground_truth": fingerprint(scene.gt), "split": split.fingerprint},
        "faults": list(faults or ()),
        "notes": split.notes,
        "n_train": split.n_train,
        "n_test": split.n_test,
        "overlap": int(((train > 0) & (test > 0)).sum()),
        "class_names": split.class_names,
        "class_train": split.class_counts("train"),
        "class_test": split.class_counts("test"),
        "n_validation": split.n_validation,
        "n_labelled": int((split.labelled > 0).sum()),
        **_against_ground_truth(split.labelled, split.class_names, scene),
        "patch_size": patch_size,
        "train_pixel_in_window": {size: in_window for size, (in_window, _) in fractions.items()},
        "train_window_overlap": {size: overlap for size, (_, overlap) in fractions.items()},
        "distance_minimum": int(distance.min()),
        "distance_median": float(np.median(distance)),
        "distance_maximum": int(distance.max()),
        "distance_histogram": {str(step): int(n) for step, n in zip(steps, n_at, strict=True)},
        "guard_pixels_dropped": split.buffer_dropped,
        "single_region_pixels_dropped": split.single_region_dropped,
        "location_accuracy": location_accuracy(train, test),
        "test_in_trained_region": in_region,
        "regions": n_regions,
        "regions_trained": n_trained,
        "duplicates": None,
        "duplicates_share": None,
    }
    if scene.cube is not None:
        findings["duplicates"] = count_duplicates(scene.cube, train, test)
        findings["duplicates_share"] = findings["duplicates"] / len(distance)
    return findings


def _with_dropped(split: Split) -> np.ndarray:
    """The labels whose regions count: those of the split, and those that it dropped if it was drawn."""
    return split.labelled if split.drawn_from is None else split.drawn_from


def _against_ground_truth(masks: np.ndarray, names: tuple[str, ...], scene: Scene) -> dict:
    """Count the pixels that the ground truth labels, that only it or only the masks label, and that disagree."""
    if scene.gt is None:
        return dict.fromkeys(("n_ground_truth", "masks_only", "ground_truth_only", "disagreeing"))
    in_gt, both = scene.gt > 0, (scene.gt > 0) & (masks > 0)
    differs = np.array(names)[masks[both] - 1] != np.array(scene.spec.class_names)[scene.gt[both] - 1]
    return {
        "n_ground_truth": int(in_gt.sum()),
        "masks_only": int(((masks > 0) & ~in_gt).sum()),
        "ground_truth_only": int((in_gt & (masks == 0)).sum()),
        "disagreeing": int(differs.sum()),
    }


def sentences(findings: dict, overall_accuracy: float | None = None) -> list[str]:
    """Say the findings in plain words, the verdict last.

    Args:
        findings: the result of `examine`, and the entry "preprocessing".
        overall_accuracy: of a run with this split, a fraction; None without a run.
    """
    names, size = findings["class_names"], findings["patch_size"]
    least, most = ([f"{pick(findings[key]):,}" for key in ("class_train", "class_test")] for pick in (min, max))
    text = [
        f"{findings['scene']}, {findings['split']}: {findings['n_train']:,} training and {findings['n_test']:,} test "
        f"pixels of {len(names)} classes, {least[0]} to {most[0]} training and {least[1]} to {most[1]} test pixels in "
        "a class."
    ]
    if findings["n_validation"]:
        text.append(f"{findings['n_validation']:,} pixels are held out of the training pixels for validation.")
    text += [f"FAULT: {fault}." for fault in findings["faults"]]
    notes = (f"{note[0].upper()}{note[1:]}" for note in findings["notes"])
    text += [note if note.endswith("?") else f"{note}." for note in notes]
    if findings["n_ground_truth"] is None:
        text.append("There is no ground truth here to compare the masks with.")
    else:
        text.append(
            f"{findings['n_labelled']:,} pixels are in the split and {findings['n_ground_truth']:,} in the ground "
            f"truth, {findings['masks_only']:,} in the split alone and {findings['ground_truth_only']:,} in the ground "
            f"truth alone; {findings['disagreeing']:,} of those in both are of different classes."
        )
    if not findings["overlap"]:
        text.append("No pixel both trains and tests.")
    for key, words in (
        ("train_pixel_in_window", "Test pixels with a training pixel in their window"),
        ("train_window_overlap", "Test windows that overlap a training window"),
    ):
        fractions = "; ".join(f"{patch}: {_per_cent(fraction)}" for patch, fraction in findings[key].items())
        text.append(f"{words}, by patch size: {fractions}.")
    text.append(
        f"The nearest training pixel of a test pixel is {findings['distance_minimum']} away at least, "
        f"{findings['distance_median']:g} in the median, {findings['distance_maximum']} at most (chessboard distance)."
    )
    text += [_on_regions(findings), _on_location(findings, overall_accuracy)]
    text += [_on_duplicates(findings), _on_fitting(findings["preprocessing"], findings["n_train"])]
    verdict = _verdict(findings, str(size))
    if overall_accuracy is not None and not findings["faults"]:
        verdict = f"{_gain(findings, overall_accuracy)} {verdict[0].upper()}{verdict[1:]}"
    return [*text, f"Verdict: {verdict}"]


def _on_regions(findings: dict) -> str:
    regions, trained = findings["regions"], findings["regions_trained"]
    return (
        f"Regions (connected pixels of one class, such as a field): the test pixels lie in {regions:,}, of which "
        f"{trained:,} also {'holds' if trained == 1 else 'hold'} a training pixel; "
        f"{_per_cent(findings['test_in_trained_region'])} of the test pixels lie in these."
    )


def _on_location(findings: dict, overall_accuracy: float | None) -> str:
    text = (
        "Location alone: the label of the nearest training pixel, without any spectrum, is right for "
        f"{_per_cent(findings['location_accuracy'], 2)} of the test pixels"
    )
    return f"{text}." if overall_accuracy is None else f"{text}; the model is for {_per_cent(overall_accuracy, 2)}."


def _gain(findings: dict, overall_accuracy: float) -> str:
    """Say what a score adds to location alone."""
    gain = 100 * (overall_accuracy - findings["location_accuracy"])
    words = f"{abs(gain):.2f} percentage points {'above' if gain > 0 else 'below'}"
    return (
        f"the overall accuracy, {_per_cent(overall_accuracy, 2)}, is {words if abs(gain) >= 0.005 else 'no more than'} "
        f"what location alone gives ({_per_cent(findings['location_accuracy'], 2)})."
    )


def _on_duplicates(findings: dict) -> str:
    if findings["duplicates"] is None:
        return "The cube is not here, so duplicate spectra were not looked for."
    if not findings["duplicates"]:
        return "No test pixel has exactly the spectrum of a training pixel."
    fraction = _per_cent(findings["duplicates_share"])
    return f"{findings['duplicates']:,} test pixels ({fraction}) have exactly the spectrum of a training pixel."


def _on_fitting(settings: dict, n_train: int) -> str:
    parts = [f"spectral pre-treatment ({settings['spectral']})"] if "msc" in settings["spectral"] else []
    parts += [] if settings["normalize"] == "none" else [f"normalisation ({settings['normalize']})"]
    parts += [f"PCA ({settings['pca']} components)"] if settings["pca"] else []
    parts += ["context"] if settings["context"] != "none" else []
    if not parts:
        return "Nothing is fitted to the spectra: no normalisation, no PCA, no msc and no context."
    where = (
        f"the {n_train:,} training pixels alone"
        if settings["fit_on"] == "train"
        else "all pixels of the scene, including the test pixels' spectra but no labels (fit_on train excludes them)"
    )
    return f"Fitted on {where}: {' and '.join(parts)}."


def _verdict(findings: dict, size: str) -> str:
    if findings["faults"]:
        return "the split is faulty; a run refuses it."
    in_window, overlap = findings["train_pixel_in_window"][size], findings["train_window_overlap"][size]
    in_region = findings["test_in_trained_region"]
    at = f"with windows of {size} x {size}, "
    shared = f"{_per_cent(in_region)} of the test pixels lie in a region that was trained on"
    if overlap == 0:
        text = f"{at}no test window shares a pixel with a training window"
        if in_region == 0:
            return f"{text}, and no region both trains and tests: the score is that of unseen fields in this scene."
        return (
            f"{text}: the score is that of unseen ground in this scene, though {shared} (--sampling_mode fields keeps "
            "regions apart)."
        )
    if in_window == 0:
        return at + (
            f"no test pixel has a training pixel in its window, but {_per_cent(overlap)} of the windows overlap one, "
            f"and {shared}."
        )
    in_window_text = f"{_per_cent(in_window)} of the test pixels have a training pixel in their window"
    if in_window < 0.5:
        return f"{at}{in_window_text}, and {shared}: read the accuracy by distance beside the overall one."
    return (
        f"{at}{in_window_text}: the score says little about unseen land; spatial cross-validation "
        "(--sampling_mode spatial or fields) keeps the windows apart."
    )


def _per_cent(fraction: float, digits: int = 1) -> str:
    """Write a fraction as per cent; 0 and 100 only if it is exactly that."""
    text = f"{100 * fraction:.{digits}f} %"
    least = 10**-digits
    if 0 < fraction < 1 and float(text[:-2]) in (0, 100):
        return f"less than {least:g} %" if fraction < 0.5 else f"more than {100 - least:g} %"
    return text
