"""Measure how far a split tests unseen land: overlap, common windows, distances, duplicates, numbering."""

import logging

import numpy as np
from scipy.ndimage import distance_transform_cdt

from datasets import Scene
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
    return {
        "patch_size": patch_size,
        "train_pixel_in_window": in_window,
        "train_window_overlap": overlap,
        "distance_median": float(np.median(distance)),
        "distance_maximum": int(distance.max()),
        "duplicates": count_duplicates(cube, split.train, split.test) / len(distance),
    }


def brief_sentence(facts: dict) -> str:
    """Say the short form in one sentence."""
    side = f"{facts['patch_size']} x {facts['patch_size']}"
    return (
        f"{_per_cent(facts['train_pixel_in_window'])} of the test pixels have a training pixel in their {side} window; "
        f"{_per_cent(facts['train_window_overlap'])} of the windows overlap that of a training pixel; the nearest is "
        f"{facts['distance_median']:g} away in the median and {facts['distance_maximum']} at most; "
        f"{_per_cent(facts['duplicates'])} of the test pixels have exactly the spectrum of a training pixel"
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
    held_out = np.zeros_like(train) if split.validation is None else split.validation
    labelled = np.maximum(np.maximum(train, test), held_out)
    distance = distance_to(train)[test > 0]
    fractions = {str(size): overlap_fractions(distance, size) for size in sorted({*PATCH_SIZES, patch_size})}
    steps, n_at = np.unique(distance, return_counts=True)
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
        "n_labelled": int((labelled > 0).sum()),
        **_against_ground_truth(labelled, split.class_names, scene),
        "patch_size": patch_size,
        "train_pixel_in_window": {size: in_window for size, (in_window, _) in fractions.items()},
        "train_window_overlap": {size: overlap for size, (_, overlap) in fractions.items()},
        "distance_minimum": int(distance.min()),
        "distance_median": float(np.median(distance)),
        "distance_maximum": int(distance.max()),
        "distance_histogram": {str(step): int(n) for step, n in zip(steps, n_at, strict=True)},
        "guard_pixels_dropped": split.buffer_dropped,
        "duplicates": None,
        "duplicates_share": None,
    }
    if scene.cube is not None:
        findings["duplicates"] = count_duplicates(scene.cube, train, test)
        findings["duplicates_share"] = findings["duplicates"] / len(distance)
    return findings


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


def sentences(findings: dict) -> list[str]:
    """Say the findings in plain words, the verdict last."""
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
    text += [_on_duplicates(findings), _on_fitting(findings["preprocessing"], findings["n_train"])]
    return [*text, f"Verdict: {_verdict(findings, str(size))}"]


def _on_duplicates(findings: dict) -> str:
    if findings["duplicates"] is None:
        return "The cube is not here, so duplicate spectra were not looked for."
    if not findings["duplicates"]:
        return "No test pixel has exactly the spectrum of a training pixel."
    fraction = _per_cent(findings["duplicates_share"])
    return f"{findings['duplicates']:,} test pixels ({fraction}) have exactly the spectrum of a training pixel."


def _on_fitting(settings: dict, n_train: int) -> str:
    parts = [] if settings["normalize"] == "none" else [f"normalisation ({settings['normalize']})"]
    parts += [f"PCA ({settings['pca']} components)"] if settings["pca"] else []
    if not parts:
        return "Nothing is fitted to the spectra: no normalisation and no PCA."
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
    at = f"at patch {size}, "
    if overlap == 0:
        return (
            at
            + "no test window shares a pixel with a training window: the score is that of unseen ground in this scene."
        )
    if in_window == 0:
        return at + (
            f"no test pixel has a training pixel in its window, but {_per_cent(overlap)} of the windows overlap one."
        )
    in_window_text = f"{_per_cent(in_window)} of the test pixels have a training pixel in their window"
    if in_window < 0.5:
        return f"{at}{in_window_text}: read the accuracy by distance beside the overall one."
    return (
        f"{at}{in_window_text}: the score says little about unseen land; spatial cross-validation "
        "(--sampling_mode spatial) keeps the windows apart."
    )


def _per_cent(fraction: float) -> str:
    """Write a fraction as per cent; 0 and 100 only if it is exactly that."""
    text = f"{100 * fraction:.1f} %"
    if 0 < fraction < 1 and text in ("0.0 %", "100.0 %"):
        return "less than 0.1 %" if fraction < 0.5 else "more than 99.9 %"
    return text
