"""The content of report.html, read without a browser; test_report_in_browser.py opens it in one."""

import io
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from finished_run import COMMAND, write_run
from PIL import Image

import main
from certainty import calibration
from reporting.page.html_tables import NONE, per_cent
from reporting.page.png import encode_png
from reporting.page.report import SAFE_PALETTE, layers_of, page, write_report
from reporting.results import NOT_ALIKE
from scenes import catalogue

HOSTILE = ('</script><script>alert("x")</script>', "a & b <b>'q'</b> {{data}}", "水稻 ünï \u2028 \\u003c")


class Reader(HTMLParser):
    """The text of a page, and the elements that are open above it."""

    def __init__(self, text: str):
        super().__init__()
        self.texts, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def found(pattern, text, flags=0):
    """The match of a pattern, which must be in the text."""
    match = re.search(pattern, text, flags)
    assert match is not None, pattern
    return match


def text_of(run):
    """All text that a reader may see."""
    parser = Reader(re.sub(r"<(script|style)\b.*?</\1>", "", page(run, COMMAND).decode(), flags=re.DOTALL))
    return re.sub(r"\s+", " ", " ".join(parser.texts))


# the pictures within the page


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (31, 257)])
def test_an_independent_reader_finds_in_the_png_what_was_put_in(shape):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (200, 3)).astype(np.uint8)
    labels = rng.integers(0, 200, shape).astype(np.uint8)
    read = Image.open(io.BytesIO(encode_png(labels, colours)))
    assert np.array_equal(np.array(read), labels)
    assert np.array_equal(np.array(read.convert("RGB")), colours[labels])
    many = rng.integers(0, 2**16, shape).astype(np.uint16)
    assert np.array_equal(np.array(Image.open(io.BytesIO(encode_png(many)))), many)
    picture = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    kept = picture.copy()
    assert np.array_equal(np.array(Image.open(io.BytesIO(encode_png(picture)))), picture)
    assert np.array_equal(picture, kept)


def test_the_layers_say_of_each_pixel_what_the_arrays_of_the_run_say(tmp_path):
    run = write_run(tmp_path / "run")
    layers = {name: values for name, (values, _) in layers_of(run).items()}
    seen = set()
    for pixel in np.ndindex(run.prediction.shape):
        train, validation, test = (run.maps[name][pixel] > 0 for name in ("train", "validation", "test"))
        assert layers["split"][pixel] == (1 if train else 2 if validation else 3 if test else 0)
        right = run.prediction[pixel] == run.maps["truth"][pixel]
        assert layers["errors"][pixel] == ((1 if right else 2) if test else 0)
        code, true = int(layers["confidence"][pixel]), float(run.maps["confidence"][pixel])
        assert code == 0 if run.prediction[pixel] == 0 else abs((code - 1) / 200 - true) <= 0.0025 + 1e-9
        seen.add((layers["split"][pixel], layers["errors"][pixel], code == 0))
    assert len(seen) >= 6
    assert np.array_equal(layers["prediction"], run.prediction)
    assert np.array_equal(layers["truth"], run.maps["truth"])
    wrong, tested = (layers["errors"] == 2).sum(), run.metrics["n_test"]
    assert run.metrics["overall_accuracy"] == pytest.approx(1 - wrong / tested)


# the content of the page


def test_every_figure_and_every_entry_of_the_protocol_is_reported(tmp_path):
    run = write_run(tmp_path / "run")
    text = text_of(run)
    metrics = run.metrics
    for name in ("overall_accuracy", "average_accuracy", "kappa"):
        assert f"{100 * metrics[name]:.2f}" in text
    for value in (metrics["n_parameters"], metrics["flops_per_patch"], metrics["n_train"], metrics["n_test"]):
        assert f"{value:,}" in text
    assert "93.4 s" in text
    assert "2.0 s" in text
    assert "Something new 17" in text  # what a later version adds is shown as well
    assert "Size 20 × 30 pixels" in text
    assert "dim 64" in text
    assert "Highest learning rate 0.00123" in text
    for sum_ in run.protocol["fingerprints"].values():
        assert sum_ in text
    assert "The masks leave out 139 pixels that the ground truth labels" in text


def test_the_table_of_classes_holds_the_counts_and_scores_of_the_run(tmp_path):
    run = write_run(tmp_path / "run")
    table = found(r'<table id="classes">.*?</table>', page(run, COMMAND).decode(), re.DOTALL)[0]
    body = found(r"<tbody>(.*)</tbody>", table, re.DOTALL)[1]
    rows = [
        [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[dh].*?</t[dh]>", row)]
        for row in re.findall(r"<tr>.*?</tr>", body)
    ]
    confusion = np.array(run.metrics["confusion"])
    for i, (number, name, trained, tested, recall, ends, _, f1) in enumerate(rows):
        assert (int(number), name) == (i + 1, run.class_names[i])
        assert int(trained) == (run.maps["train"] == i + 1).sum()
        assert int(tested) == (run.maps["test"] == i + 1).sum() == confusion[i].sum()
        if confusion[i].sum():
            assert float(recall) == pytest.approx(100 * confusion[i, i] / confusion[i].sum(), abs=0.0051)
            assert float(f1) == pytest.approx(
                200 * confusion[i, i] / (confusion[i].sum() + confusion[:, i].sum()), abs=0.0051
            )
        else:
            assert recall == ends == f1 == re.sub(r"<[^>]*>", "", NONE)
        if ends != re.sub(r"<[^>]*>", "", NONE):
            low, high = run.metrics["intervals"]["class_recall"][i]
            assert ends == f"{100 * low:.2f}–{100 * high:.2f}"
    assert len(rows) == len(run.class_names)


def test_the_intervals_and_the_certainty_are_explained(tmp_path):
    run = write_run(tmp_path / "run")
    metrics, text = run.metrics, text_of(run)
    for name in ("overall_accuracy", "average_accuracy", "kappa"):
        low, high = metrics["intervals"][name]
        assert f"95 % interval {100 * low:.2f} to {100 * high:.2f}" in text
    assert f"They lie in {metrics['intervals']['n_blocks']} blocks of 4 x 4 pixels" in text
    assert f"differ by {100 * metrics['calibration']['expected_calibration_error']:.2f} % on average" in text
    assert "with a temperature of 1.250" in text
    conformal = metrics["conformal"]
    assert (
        f"Wanted are sets that hold the right class of 90 % of the pixels. Measured on the test pixels: "
        f"{100 * conformal['coverage']:.2f} % (70.00 to 90.00)" in text.replace("  ", " ")
    )
    assert NOT_ALIKE in text.replace("In this", "in this")
    metrics["protocol"]["split"] = "random, 10 % of each class train"
    assert NOT_ALIKE not in text_of(run) and "so at least 90 % can be expected" in text_of(run)


@pytest.mark.parametrize(("confidence", "words"), [(0.99, "more certain"), (0.5, "less certain"), (0.76, "about as")])
def test_the_page_says_in_which_way_the_confidence_is_wrong(tmp_path, confidence, words):
    run = write_run(tmp_path / "run")
    run.metrics["calibration"] = calibration(np.arange(100) < 75, np.full(100, confidence))
    assert f"the model is {words}" in text_of(run)


def test_a_model_that_is_fitted_at_once_has_no_epochs_and_one_of_single_pixels_no_windows(tmp_path):
    run = write_run(tmp_path / "run", n_epochs=0)
    assert "fitted to the training pixels at once; it has no epochs" in text_of(run)
    assert "The windows have 7 × 7 pixels" in text_of(run)
    run.metrics["protocol"]["model"]["patch_size"] = 1
    run.metrics.update(n_parameters=None, flops_per_patch=None)
    assert "The model looks at single pixels" in text_of(run) and "None" not in text_of(run)


def test_a_run_of_an_earlier_version_has_a_page_without_intervals_and_certainty(tmp_path):
    run = write_run(tmp_path / "run")
    for name in ("intervals", "calibration", "accuracy_by_coverage", "conformal", "temperature"):
        del run.metrics[name]
    text = text_of(run)
    assert "interval" not in text and "How certain" not in text and "Certainty" not in text
    few = write_run(tmp_path / "few")
    few.metrics["intervals"] |= dict.fromkeys(("overall_accuracy", "average_accuracy", "kappa"), (None, None))
    assert "That is too few to tell, so no interval is given" in text_of(few)


def test_the_confusion_matrix_has_the_ground_truth_in_its_rows(tmp_path):
    run = write_run(tmp_path / "run")
    table = found(r'<table id="confusion">.*?</table>', page(run, COMMAND).decode(), re.DOTALL)[0]
    counts = [
        [int(n) for n in re.findall(r'<td(?: class="\w+"><span class="n")?>(\d+)', row)]
        for row in re.findall(r"<tr>(.*?)</tr>", table.split("<tbody>")[1])
    ]
    assert counts == run.metrics["confusion"]
    assert counts != np.transpose(run.metrics["confusion"]).tolist()


def test_a_fault_of_the_split_stands_at_the_top_and_apart(tmp_path):
    text = page(write_run(tmp_path / "run", faults=("5 pixels both train and test",)), COMMAND).decode()
    box = found(r'<p class="verdict-box">.*?</p>', text)[0]
    assert '<span class="fault"><b>FAULT:</b> 5 pixels both train and test.</span>' in box
    assert box.index("FAULT") < box.index("Verdict")
    assert 'class="fault"' not in page(write_run(tmp_path / "sound"), COMMAND).decode()


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_score_that_is_not_defined_is_a_dash(value):
    assert per_cent(value) == NONE


def test_names_may_hold_anything_and_stay_text(tmp_path):
    run = write_run(tmp_path / "run", names=HOSTILE, scene=HOSTILE[0], faults=(HOSTILE[0],))
    text = page(run, COMMAND).decode()
    parser = Reader(text)
    assert [tag for tag, _ in parser.tags].count("script") == 2  # the data and the page's own
    assert text.count("</script>") == 2
    data = json.loads(found(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert tuple(data["classes"]) == HOSTILE
    shown = "".join(parser.texts)
    assert all(name in shown for name in HOSTILE)
    assert "alert" not in re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[0]


def test_the_page_forbids_itself_every_request_and_asks_for_none(tmp_path):
    text = page(write_run(tmp_path / "run"), COMMAND).decode()
    policy = found(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for _, attributes in Reader(text).tags:
        for name in ("src", "href", "action", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"@import|url\(", text)


# how it is written


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    run = write_run(tmp_path / "run")
    write_report(run, COMMAND)
    first = (run.folder / "report.html").read_bytes()
    time.sleep(1.1)
    write_report(type(run).read(run.folder), COMMAND)
    assert (run.folder / "report.html").read_bytes() == first


def test_a_page_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run")
    (run.folder / "report.html").write_text("before")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_report(run, COMMAND)
    assert (run.folder / "report.html").read_text() == "before"
    assert not list(run.folder.glob(".report*"))


def test_a_page_of_a_scene_like_indian_pines_is_small_and_soon_written(tmp_path):
    run = write_run(tmp_path / "run", shape=(145, 145), names=tuple(f"class {i}" for i in range(16)), n_epochs=300)
    started = time.process_time()
    assert len(page(run, COMMAND)) < 600_000
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "settings",
    [
        {"n_epochs": 1, "n_scales": 1, "validation": False},
        {"names": ("one", "two"), "n_scales": 1},
        {"names": tuple(f"class {i}" for i in range(300)), "shape": (40, 40)},
    ],
    ids=["one epoch", "two classes", "300 classes"],
)
def test_runs_of_every_kind_have_a_page(tmp_path, settings):
    run = write_run(tmp_path / "run", **settings)
    text = text_of(run)
    assert all(f"{i} {name}" in text for i, name in enumerate(run.class_names, 1))
    assert ("validation" in page(run, COMMAND).decode().split("<script")[0]) == settings.get("validation", True)


def test_a_loss_that_is_no_number_is_a_gap_and_not_broken_json(tmp_path):
    run = write_run(tmp_path / "run")
    run.records[2]["loss"] = float("nan")
    text = page(run, COMMAND).decode()
    data = found(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
    curves = json.loads(data, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))["curves"]
    assert curves["loss"][2] is None
    assert curves["loss"][1] == 1.25
    assert curves["scales"] == [[2.5 / e + 0.2 * s for e in range(1, 7)] for s in range(2)]


# the palette


def _linear(hexes):
    values = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in hexes])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _lab(linear):
    """CIELAB of linear sRGB, (n, 3), white D65."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = linear.clip(0, 1) @ np.array(to_xyz).T / (0.95047, 1.0, 1.08883)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


# Viénot, Brettel and Mollon 1999 (protanopia, deuteranopia); Machado, Oliveira and Fernandes 2009 (all three).
RGB_TO_LMS = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
VIENOT = {
    "protanopia": [[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]],
    "deuteranopia": [[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]],
}
VISIONS = {f"{name}, Viénot": np.linalg.inv(RGB_TO_LMS) @ np.array(m) @ RGB_TO_LMS for name, m in VIENOT.items()} | {
    "everybody": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def _nearest(hexes, vision):
    """Smallest difference (CIE 1976) of two colours of a list as people with this vision see them."""
    lab = _lab(_linear(hexes) @ np.array(VISIONS[vision]).T)
    apart = np.sqrt(((lab[:, None] - lab[None]) ** 2).sum(-1))
    return apart[np.triu_indices(len(hexes), 1)].min()


def test_the_simulated_visions_keep_grey_and_confuse_what_they_should():
    grey = _linear(["#808080"])
    for name, matrix in VISIONS.items():
        assert np.allclose(grey @ np.array(matrix).T, grey, rtol=0.02), name
    assert _nearest(["#ff0000", "#00ff00"], "everybody") == pytest.approx(170.6, abs=0.5)  # a known figure
    for name in VISIONS:
        if name.startswith("deuter"):
            assert _nearest(["#e13c2d", "#78692d"], name) < _nearest(["#e13c2d", "#78692d"], "everybody") / 2


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize(("n_classes", "least"), [(9, 15), (16, 10), (22, 7)])
def test_the_safe_colours_differ_for_every_kind_of_colour_vision(vision, n_classes, least):
    """About 2.3 is just noticeable."""
    assert _nearest([*SAFE_PALETTE[:n_classes], "#000000"], vision) > least


def test_the_usual_colours_do_not():
    usual = min(_nearest(catalogue.PALETTE[:22], vision) for vision in VISIONS)
    safe = min(_nearest(SAFE_PALETTE[:22], vision) for vision in VISIONS)
    assert usual < 4
    assert safe > 2 * usual
    assert len(set(SAFE_PALETTE)) == len(SAFE_PALETTE) == len(catalogue.PALETTE)


# --report


def test_report_writes_pictures_and_page_of_finished_runs_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("reporting.figures.maps.DPI", 40)
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    assert main.main(["--report", *(str(run.folder) for run in runs)]) == 0
    for run in runs:
        assert (run.folder / "report.html").read_bytes() == page(run, COMMAND)
        assert (run.folder / "map.png").stat().st_size > 1000
        assert str(run.folder / "report.html") in capsys.readouterr().err or run is not runs[0]


def test_report_writes_nothing_where_one_of_the_folders_is_no_finished_run(tmp_path, capsys):
    run = write_run(tmp_path / "a")
    broken = write_run(tmp_path / "b")
    (broken.folder / "metrics.json").unlink()
    assert main.main(["--report", str(run.folder), str(broken.folder)]) == 2
    assert "is not complete" in capsys.readouterr().err
    assert not (run.folder / "report.html").exists()
    assert main.main(["--report", str(run.folder), "--epoch", "3"]) == 2
    assert "--report does not use --epoch" in capsys.readouterr().err


def test_a_real_run_leaves_a_page(tiny_scene, tmp_path, monkeypatch):
    monkeypatch.setattr("reporting.figures.maps.DPI", 40)
    common = ["--dataset", "tiny", "--folder", str(tiny_scene.folder), "--output", str(tmp_path / "runs")]
    quick = [
        "--patch_size",
        "3",
        "--epoch",
        "1",
        "--visdom",
        "off",
        "--cuda",
        "-1",
        "--model",
        "CNN",
        "--test_stride",
        "2",
    ]
    assert main.main([*common, *quick]) == 0
    (path,) = (tmp_path / "runs").glob("*/*/*/report.html")
    assert "<h1>CNN <span" in path.read_text(encoding="utf-8")


def test_very_many_classes_get_a_list_of_the_largest_confusions(tmp_path):
    run = write_run(tmp_path / "run", shape=(60, 80), names=tuple(f"<{i}>" for i in range(300)))
    text = page(run, COMMAND).decode()
    confusion = np.array(run.metrics["confusion"])
    np.fill_diagonal(confusion, 0)
    start = text.index("<caption>The largest of the")
    table = text[start : text.index("</table>", start)]
    assert f"The largest of the {np.count_nonzero(confusion):,} confusions" in table
    shown = [int(n) for n in re.findall(r"</th><td>(\d+)</td>", table)]
    assert shown == sorted(confusion[confusion > 0].ravel().tolist(), reverse=True)[: len(shown)]
    assert len(shown) == min(200, np.count_nonzero(confusion))
    row, column = np.unravel_index(confusion.argmax(), confusion.shape)
    assert f"</span> &lt;{row}&gt;</th>" in table and f"</span> &lt;{column}&gt;</th>" in table
    assert 'id="confusion"' not in text
