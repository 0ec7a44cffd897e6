"""The pictures and the page of a finished run, from its folder alone."""

import numpy as np

from reporting.figures import curves, maps
from reporting.page.report import write_report
from reporting.run_folder import Run


def write_pictures_and_page(run: Run, command: str) -> None:
    """Draw a finished run's pictures and write its page, from its folder alone.

    Args:
        run: the run; its folder gets the pictures (.png and .pdf) and report.html.
        command: the command line that repeats the run, for the page.
    """
    subject, stride = f"{run.model} on {run.scene}", run.protocol.get("test_stride", 1)
    truth, prediction, home = run.maps["truth"], run.prediction, run.folder
    pixel_size = run.metrics.get("pixel_size")
    filled = "" if stride == 1 else f": one pixel in {stride} x {stride} predicted, filled"
    label_maps = {
        "map": (prediction, subject + filled),
        "map_labelled": (np.where(truth > 0, prediction, 0), f"{subject}: labelled pixels"),
        "ground_truth": (truth, f"{run.scene}: ground truth"),
    }
    titles = [title for _, title in label_maps.values()]
    for name, (labels, title) in label_maps.items():
        maps.save_label_map(home / name, labels, run.class_names, run.palette, title, pixel_size, other_titles=titles)
    masks = [run.maps[name] for name in ("train", "validation", "test")]
    maps.save_errors(home / "errors", maps.error_map(prediction, *masks), f"{subject}: test pixels", pixel_size)
    if run.records:
        curves.save_curves(home / "curves", run.records, run.scale_names, subject)
    curves.save_confusion(home / "confusion", np.array(run.metrics["confusion"]), run.class_names, subject)
    title = f"{subject}, patch {run.protocol['model']['patch_size']}"
    curves.save_accuracy_by_distance(home / "distance", run.metrics["accuracy_by_distance"], title)
    if "calibration" in run.metrics:
        certainty = run.metrics["calibration"], run.metrics["accuracy_by_coverage"]
        curves.save_calibration(home / "calibration", *certainty, title)
    write_report(run, command)
