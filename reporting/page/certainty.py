"""The parts of the report that say how sure the scores and the labels are; empty for runs of earlier versions."""

from html import escape

from reporting.page.html_tables import number, per_cent
from reporting.results import NOT_ALIKE, alike, interval_words
from reporting.run_folder import Run

LINK = '<a href="#certainty">Certainty</a>'
TINTED = 0.02  # a difference between confidence and accuracy that is worth a word


def score_interval(run: Run, name: str) -> str:
    """Make the line below a score: its confidence interval in per cent."""
    intervals = run.metrics.get("intervals")
    if intervals is None or (words := interval_words(intervals[name])) == "-":
        return ""
    return f'<dd class="interval">{_level(intervals)} interval {words}</dd>'


def certainty_section(run: Run) -> str:
    """Make the section on the intervals of the scores, the confidence of the labels, and the prediction sets."""
    metrics = run.metrics
    if not {"intervals", "calibration", "accuracy_by_coverage"} <= set(metrics):
        return ""
    parts = [_on_scores(metrics["intervals"]), _on_confidence(metrics)]
    if "conformal" in metrics:
        parts.append(_on_sets(metrics["conformal"], run.protocol["split"]))
    return (
        '<section id="certainty" aria-labelledby="certainty-title"><h2 id="certainty-title">How certain is this?</h2>'
        f"{''.join(parts)}</section>"
    )


def _level(intervals: dict) -> str:
    return f"{100 * intervals['level']:g}&nbsp;%"


def _on_scores(intervals: dict) -> str:
    land, n = escape(intervals["of"]), number(intervals["n_blocks"])
    start = (
        "<h3>The scores</h3><p>On other ground of the same kind the scores would be somewhat different. The test "
        f"pixels themselves tell by how much. They lie in {n} {land}. "
    )
    if interval_words(intervals["overall_accuracy"]) == "-":
        return f"{start}That is too few to tell, so no interval is given.</p>"
    return (
        f"{start}As many of these are drawn at random, some of them several times and some never, and the scores are "
        f"computed from what was drawn; this is done {number(intervals['draws'])} times. {_level(intervals)} of the "
        "results lie in the interval that is given. (This is a bootstrap. Whole pieces of land are drawn because "
        "neighbouring pixels are right or wrong together: one by one they would make the interval far too narrow.) "
        "What another seed, other training pixels or another scene would change is not in the interval; it takes "
        "several runs to see that.</p>"
    )


def _on_confidence(metrics: dict) -> str:
    calibration = metrics["calibration"]
    bins, error = calibration["bins"], calibration["expected_calibration_error"]
    n = sum(each["n"] for each in bins)
    gap = sum(each["n"] * (each["confidence"] - each["accuracy"]) for each in bins) / max(n, 1)
    kind = "about as certain as it is right"
    if gap > TINTED:
        kind = "more certain than it is right: expect more errors than the confidence says"
    elif gap < -TINTED:
        kind = "less certain than it is right: expect fewer errors than the confidence says"
    temperature = metrics.get("temperature")
    fitted = ""
    if temperature is not None:
        fitted = (
            " The probabilities were fitted to the validation pixels after training, with a temperature of "
            f"{temperature:.3f}: above 1 the model was too certain there, below 1 not certain enough."
        )
    rows = "".join(
        f'<tr><th scope="row">{100 * each["from"]:.0f}–{100 * each["to"]:.0f}</th><td>{number(each["n"])}</td>'
        f"<td>{per_cent(each['confidence'])}</td><td>{per_cent(each['accuracy'])}</td></tr>"
        for each in bins
    )
    return (
        "<h3>The labels</h3><p>The confidence of a pixel is the probability that the model gives to its label. Of the "
        "pixels with a confidence of 80&nbsp;% four in five should be right. Here confidence and accuracy differ by "
        f"{per_cent(error)}&nbsp;% on average (the expected calibration error), and the model is {kind}.{fitted} The "
        "second chart shows what leaving out the least certain pixels would bring.</p>"
        '<div class="charts" id="certainty-charts"></div>'
        "<details><summary>Confidence and accuracy as a table</summary>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of confidence and accuracy"><table>'
        "<caption>Test pixels by their confidence</caption><thead><tr>"
        '<th scope="col">Confidence %</th><th scope="col">Test pixels</th><th scope="col">Mean confidence %</th>'
        f'<th scope="col">Right %</th></tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _on_sets(conformal: dict, split: str) -> str:
    wanted = f"{100 - 100 * conformal['risk']:g}&nbsp;%"
    ends = interval_words(conformal["coverage_interval"])
    n = max(sum(conformal["sizes"]), 1)
    counted = [(size, count) for size, count in enumerate(conformal["sizes"], 1) if count]
    sizes = ", ".join(f"{size}: {100 * count / n:.1f}&nbsp;%" for size, count in counted)
    promise = f"The validation pixels are drawn as the test pixels are, so at least {wanted} can be expected."
    if not alike(split):
        promise = f"<strong>{NOT_ALIKE[0].upper()}{NOT_ALIKE[1:]}.</strong>"
    return (
        "<h3>Prediction sets</h3><p>Besides its label each pixel has a set of classes that could be right, by split "
        f"conformal prediction with the {number(conformal['n_validation'])} validation pixels: a class is in the set "
        f"if its probability is at least {conformal['threshold']:.3g}, and the label always is. Wanted are sets that "
        f"hold the right class of {wanted} of the pixels. Measured on the test pixels: "
        f"<b>{per_cent(conformal['coverage'])}&nbsp;%</b>{f' ({ends})' if ends != '-' else ''}, with "
        f"{conformal['mean_size']:.2f} classes in a set on average ({sizes} of the pixels). {promise}</p>"
    )
