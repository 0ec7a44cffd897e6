"""The pictures and the page of a finished run, from its folder alone."""

import numpy as np

from reporting.figures import curves, maps
from reporting.page.report import write_report
from reporting.run_folder import Run


def show(run: Run) -> None:
    """Draw a finished run's pictures and write its page, from its folder alone."""
    legend, size = (run.class_names, run.palette), run.metrics.get("pixel_size")
    where, stride = f"{run.model} on {run.scene}", run.protocol.get("test_stride", 1)
    filled = "" if stride == 1 else f": one pixel in {stride} x {stride} predicted, filled"
    truth, prediction, home = run.maps["truth"], run.prediction, run.folder
    masks = [run.maps[name] for name in ("train", "validation", "test")]
    maps.save_label_map(home / "map", prediction, *legend, where + filled, size)
    on_labelled = np.where(truth > 0, prediction, 0)
    maps.save_label_map(home / "map_labelled", on_labelled, *legend, f"{where}: labelled pixels", size)
    maps.save_label_map(home / "ground_truth", truth, *legend, f"{run.scene}: ground truth", size)
    maps.save_errors(home / "errors", maps.error_map(prediction, *masks), f"{where}: test pixels", size)
    curves.save_curves(home / "curves", run.records, run.scale_names, where)
    curves.save_confusion(home / "confusion", np.array(run.metrics["confusion"]), run.class_names, where)
    title = f"{where}, patch {run.protocol['model']['patch_size']}"
    curves.save_accuracy_by_distance(home / "distance", run.metrics["accuracy_by_distance"], title)
    write_report(run)
