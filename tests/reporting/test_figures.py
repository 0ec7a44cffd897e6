"""The figures for print: what they show, their sizes, and their files."""

import math
import re
import shutil
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest
from finished_run import COMMAND, write_run
from made_runs import change
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Patch
from PIL import Image
from scipy import ndimage

from reporting.colours import colour_map
from reporting.figures import curves, maps, style
from reporting.run_folder import Run
from reporting.run_report import write_pictures_and_page
from reporting.spectra import class_spectra, random_spectra
from scenes.catalogue import PALETTE as COLOURS
from scenes.catalogue import SCENES

NAMES = ("Corn", "Woods", "Water")
PALETTE = ("#1f77b4", "#e13c2d", "#0f960f")
RGB = {0: (0, 0, 0), 1: (0x1F, 0x77, 0xB4), 2: (0xE1, 0x3C, 0x2D), 3: (0x0F, 0x96, 0x0F)}
SCALES = (*(f"scale {side} x {side}" for side in (9, 7, 5, 3, 1)), "all scales")
INCH = 2.54
SHAPES = [(145, 145), (610, 340), (349, 1905), (1476, 256), (512, 614), (5, 5), (3, 60), (60, 3)]


@pytest.fixture(autouse=True)
def _small_pictures():
    """Here they have their full size."""


@pytest.fixture
def drawn(monkeypatch):
    """The figure that was drawn last, which is not written then."""
    figure_drawn = Figure()
    FigureCanvasAgg(figure_drawn)

    @contextmanager
    def sheet(*_):
        figure_drawn.clear()
        yield figure_drawn

    for module in (maps, curves):
        monkeypatch.setattr(module, "sheet", sheet)
    return figure_drawn


def read_png(path):
    assert path.read_bytes().startswith(b"\x89PNG")
    return (255 * imread(path)[..., :3]).round().astype(int)


def count(image, colour):
    return int((image == colour).all(-1).sum())


def box_of(image, *colours):
    """The largest area of these colours: its rows and columns."""
    coloured = np.any([(image == colour).all(-1) for colour in colours], axis=0)
    areas = np.empty(coloured.shape, dtype=np.int32)
    ndimage.label(coloured, output=areas)
    return ndimage.find_objects(areas)[np.bincount(areas[coloured]).argmax() - 1]


def poppler(program, *arguments):
    """Run one of poppler's programs."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} (poppler) is not installed")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=True).stdout


# Files


def test_a_figure_is_a_png_of_300_dpi_and_a_pdf_with_truetype_text(tmp_path):
    maps.save_label_map(tmp_path / "map", np.eye(30, dtype=int), NAMES, PALETTE, "A title of the map", 20)
    with Image.open(tmp_path / "map.png") as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert image.width / 300 * INCH == pytest.approx(9, abs=0.02)
    pdf = (tmp_path / "map.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    media_box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf)
    assert media_box is not None
    width, height = map(float, media_box.groups())
    assert width / 72 * INCH == pytest.approx(9, abs=0.01)
    assert height / width == pytest.approx(image.height / image.width, abs=0.01)


def test_the_text_of_a_pdf_can_be_read_and_its_map_has_each_pixel_as_a_whole_cell(tmp_path):
    labels = np.random.default_rng(0).integers(0, 4, (31, 45))
    maps.save_label_map(tmp_path / "map", labels, NAMES, PALETTE, "A title of the map")
    text = poppler("pdftotext", "-layout", tmp_path / "map.pdf", "-")
    for words in ("A title of the map", "unlabelled", "1 Corn", "3 Water", "10 pixels"):
        assert words in text
    poppler("pdfimages", "-png", tmp_path / "map.pdf", tmp_path / "image")
    (file,) = tmp_path.glob("image*.png")
    cells = np.array(Image.open(file).convert("RGB"))
    times = cells.shape[0] // 31
    assert cells.shape == (31 * times, 45 * times, 3)
    assert times > 4
    expected = colour_map(labels, PALETTE)
    np.testing.assert_array_equal(cells[::-1], expected.repeat(times, 0).repeat(times, 1))  # a PDF begins below
    poppler("pdftoppm", "-r", 300, "-png", "-singlefile", tmp_path / "map.pdf", tmp_path / "page")
    page, png = read_png(tmp_path / "page.png"), read_png(tmp_path / "map.png")
    rows, columns = box_of(png, *RGB.values())
    row, column = (
        np.linspace(part.start, part.stop, 2 * n + 1)[1::2].astype(int) for part, n in ((rows, 31), (columns, 45))
    )
    np.testing.assert_array_equal(page[np.ix_(row, column)], expected)
    np.testing.assert_array_equal(png[np.ix_(row, column)], expected)
    assert b"/Interpolate true" not in (tmp_path / "map.pdf").read_bytes()


def test_the_same_drawing_gives_the_same_bytes_without_a_date(tmp_path):
    for name in ("a", "b"):
        maps.save_errors(tmp_path / name, np.arange(25).reshape(5, 5) % 5, "title")
        curves.save_confusion(tmp_path / f"{name}-confusion", np.diag([5, 6, 7]), NAMES, "title")
    for name in ("{}.png", "{}.pdf", "{}-confusion.png", "{}-confusion.pdf"):
        content = (tmp_path / name.format("a")).read_bytes()
        assert content == (tmp_path / name.format("b")).read_bytes()
        assert b"Date" not in content


def test_a_drawing_that_fails_leaves_the_files_as_they_were(tmp_path, monkeypatch):
    (tmp_path / "map.png").write_bytes(b"earlier")
    with pytest.raises(ZeroDivisionError), style.sheet(tmp_path / "map"):
        _ = 1 / 0
    original = Figure.savefig

    def savefig(figure, buffer, **keywords):
        original(figure, buffer, **keywords)
        if keywords["format"] == "pdf":
            raise OSError("full")

    monkeypatch.setattr(Figure, "savefig", savefig)
    with pytest.raises(OSError, match="full"), style.sheet(tmp_path / "map"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"map.png"}
    assert (tmp_path / "map.png").read_bytes() == b"earlier"


# Maps


@pytest.mark.parametrize("shape", [(90, 30), (40, 40), (30, 90)], ids=["legend beside", "legend below", "two columns"])
def test_the_picture_of_a_map_has_the_colours_in_the_maps_shares(tmp_path, shape):
    labels = np.zeros(shape, dtype=np.int64)
    labels[: shape[0] // 2], labels[-shape[0] // 4 :, : shape[1] // 2] = 1, 3
    maps.save_label_map(tmp_path / "map", labels, NAMES, PALETTE, "a title")
    image = read_png(tmp_path / "map.png")
    on_map = {label: count(image, RGB[label]) for label in (1, 3)}
    assert on_map[1] / on_map[3] == pytest.approx((labels == 1).sum() / (labels == 3).sum(), rel=0.06)
    assert on_map[1] > 0.08 * image.shape[0] * image.shape[1]
    assert count(image, RGB[0]) > 0
    n_on_map = (labels == 2).sum()
    assert n_on_map == 0 < count(image, RGB[2]) < 0.01 * image.shape[0] * image.shape[1]  # in the legend all the same


def test_the_maps_of_a_run_have_the_same_legend_and_the_same_size_whatever_was_predicted(tmp_path, monkeypatch):
    legends = {}

    def keep(path, *arguments):
        with sheet(path, *arguments) as figure:
            yield figure
        legends[path.name] = [text.get_text() for text in figure.legends[0].get_texts()]

    sheet = style.sheet
    monkeypatch.setattr(maps, "sheet", contextmanager(keep))
    monkeypatch.setattr(style, "DPI", 60)
    write_run(tmp_path / "run")
    change(tmp_path / "run", protocol={"test_stride": 4})  # the map has the longest title, in two lines
    prediction = np.load(tmp_path / "run" / "prediction.npy")
    np.save(tmp_path / "run" / "prediction.npy", np.where(prediction == 3, 1, np.maximum(prediction, 1)))
    run = Run.read(tmp_path / "run")
    assert set(np.unique(run.prediction)) == {1, 2}
    write_pictures_and_page(run, COMMAND)
    names = ("map", "map_labelled", "ground_truth")
    assert all(legends[name] == ["unlabelled", "1 Corn", "2 Woods", "3 Water"] for name in names)
    sizes = {Image.open(run.folder / f"{name}.png").size for name in names}
    assert len(sizes) == 1, sizes


def test_the_picture_of_a_map_has_each_pixel_in_its_place_and_all_of_one_size(tmp_path):
    labels = np.ones((29, 29), dtype=np.int64)
    labels[:10, :7], labels[28, 28] = 2, 2
    maps.save_label_map(tmp_path / "map", labels, NAMES, PALETTE, "")
    image = read_png(tmp_path / "map.png")
    shown = image[box_of(image, RGB[1], RGB[2])]
    times = shown.shape[0] // 29
    np.testing.assert_array_equal(shown, colour_map(labels, PALETTE).repeat(times, 0).repeat(times, 1))


def test_a_map_larger_than_its_picture_is_thinned_out(tmp_path, monkeypatch):
    monkeypatch.setattr(maps, "LONGEST_SIDE", 50)
    labels = np.ones((100, 100), dtype=np.int64)
    labels[:50] = 2
    maps.save_label_map(tmp_path / "map", labels, NAMES, PALETTE, "", 2)
    image = read_png(tmp_path / "map.png")
    assert count(image, RGB[1]) == pytest.approx(count(image, RGB[2]), rel=0.03)


@pytest.mark.parametrize(
    ("width", "pixel_size", "words", "pixels"),
    [
        (145, 20, "500 m", 25),
        (340, 1.3, "100 m", 100 / 1.3),
        (1905, 2.5, "1 km", 400),
        (256, 30, "2 km", 2000 / 30),
        (475, 0.043, "5 m", 5 / 0.043),
        (100, 0.01, "20 cm", 20),
        (145, None, "20 pixels", 20),
        (3, None, "1 pixel", 1),
        (1, 30, "20 m", 20 / 30),
    ],
)
def test_the_scale_bar_has_a_round_length(width, pixel_size, words, pixels):
    assert maps.scale_bar(width, pixel_size) == (pytest.approx(pixels), words)


def test_the_scale_bar_is_as_long_as_it_says(tmp_path):
    labels = np.ones((145, 145), dtype=np.int64)
    maps.save_label_map(tmp_path / "map", labels, NAMES, PALETTE, "", 20)
    image = read_png(tmp_path / "map.png")
    rows, columns = box_of(image, RGB[1])
    below = (image[rows.stop : rows.stop + 60, columns] == 0).all(-1)
    longest = max(len(run) for line in below for run in "".join("x" if dark else " " for dark in line).split())
    assert longest == pytest.approx(500 / 20 * (columns.stop - columns.start) / 145, abs=2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("names", [NAMES, SCENES["WHU-Hi-HongHu"].class_names, ("A name " * 12, "B")], ids=len)
def test_map_legend_and_title_find_their_places_whatever_the_shape(tmp_path, shape, names):
    labels = np.arange(shape[0] * shape[1]).reshape(shape) % (len(names) + 1)
    kept = {}

    def keep(figure, *arguments, **keywords):
        kept["figure"] = figure
        return add(figure, *arguments, **keywords)

    add = maps.add_legend
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "add_legend", keep)
        patch.setattr(style, "DPI", 60)
        maps.save_label_map(tmp_path / "map", labels, names, COLOURS[: len(names)], "MiM-v1 on a scene", 3.0)
    figure = kept["figure"]
    renderer = figure.canvas.get_renderer()
    page = figure.bbox
    boxes = [figure.axes[0].get_window_extent(renderer), figure.legends[0].get_window_extent(renderer)]
    boxes += [text.get_window_extent(renderer) for text in (*figure.texts, *figure.axes[0].texts)]
    for i, box in enumerate(boxes):
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= page.x1 + 1
        assert box.y1 <= page.y1 + 1
        for other in boxes[:i]:
            assert not (
                box.x0 < other.x1 - 1 and other.x0 < box.x1 - 1 and box.y0 < other.y1 - 1 and other.y0 < box.y1 - 1
            )
    assert boxes[0].height / boxes[0].width == pytest.approx(shape[0] / shape[1], rel=0.02)
    assert figure.get_figwidth() * INCH == pytest.approx(18 if shape[1] > 2 * shape[0] else 9)
    assert figure.get_figheight() * INCH < 24


@pytest.mark.parametrize(
    ("n_classes", "words"), [(100, "100 class 100"), (2000, "and 1,900 more classes, see report.html")]
)
def test_a_legend_names_a_hundred_classes_and_counts_the_others(drawn, tmp_path, n_classes, words):
    names, palette = [tuple(f(i + 1) for i in range(n_classes)) for f in ("class {}".format, "#{:06x}".format)]
    maps.save_label_map(tmp_path / "map", np.ones((9, 9), np.uint16), names, palette, "title")
    (legend,) = drawn.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[:2] == ["unlabelled", "1 class 1"] and texts[100] == "100 class 100" and texts[-1] == words
    assert len(texts) == min(n_classes, 101) + 1


def test_the_size_of_a_legend_is_known_before_it_is_drawn(tmp_path):
    names = (*SCENES["IndianPines"].class_names, "A name that goes on and on until it needs lines of its own")
    entries = [Patch(label=style.class_label(i, name)) for i, name in enumerate(names)]
    with style.sheet(tmp_path / "x") as figure:
        for n_columns, (width, height) in style.legend_sizes(figure, entries).items():
            legend = style.add_legend(figure, entries, n_columns)
            extent = legend.get_window_extent()
            legend.remove()
            assert width == pytest.approx(extent.width / figure.dpi, rel=0.01)
            assert height == pytest.approx(extent.height / figure.dpi, rel=0.06)


def test_the_error_map_tells_right_wrong_and_training_pixels_apart():
    rng = np.random.default_rng(0)
    truth, prediction, part = rng.integers(0, 4, (9, 8)), rng.integers(0, 4, (9, 8)), rng.integers(0, 3, (9, 8))
    train, validation, test = (np.where(part == k, truth, 0) for k in range(3))
    errors = maps.error_map(prediction, train, validation, test)
    assert set(errors.ravel()) == {0, 1, 2, 3, 4}
    for pixel in np.ndindex(9, 8):
        if train[pixel]:
            kind = 3
        elif validation[pixel]:
            kind = 4
        elif test[pixel]:
            kind = 1 if prediction[pixel] == test[pixel] else 2
        else:
            kind = 0
        assert errors[pixel] == kind


def test_the_picture_of_the_errors_counts_them_and_has_colours_that_the_colour_blind_tell_apart(tmp_path, drawn):
    errors = np.array([[1, 1, 1, 2], [3, 0, 0, 0]])
    maps.save_errors(tmp_path / "errors", errors, "")
    words = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert words == ["right: 3 (75.0 %)", "wrong: 1 (25.0 %)", "training: 1", "in no mask: 3"]
    image = drawn.axes[0].images[0].get_array()
    cells = image[:: image.shape[0] // 2, :: image.shape[1] // 4]
    assert len(np.unique(cells[[0, 0, 1, 1], [0, 3, 0, 1]], axis=0)) == 4
    grey = cells.astype(float) @ (0.299, 0.587, 0.114)
    levels = sorted(grey[[0, 0, 1, 1], [0, 3, 0, 1]])
    assert min(np.diff(levels)) > 25  # apart in grey too


# Curves and tables


def test_the_curves_are_those_of_the_records(drawn, tmp_path):
    records: list[dict] = [
        {"epoch": i, "loss": 3 / i, "scale_losses": [3 / i, 4 / i], "lr": 1e-3 / i, "train_accuracy": 1 - 1 / i}
        | {"val_accuracy": None if i == 2 else 0.5 + i / 100}
        for i in range(1, 41)
    ]
    curves.save_curves(tmp_path / "curves", records, ("scale 3 x 3", "scale 1 x 1"), "a title")
    loss, accuracy, rate = drawn.axes
    lines = {line.get_label(): np.array(line.get_xydata()) for axes in (loss, accuracy) for line in axes.lines}
    assert list(lines) == ["total", "scale 3 x 3", "scale 1 x 1", "training", "validation"]
    for name, expected in (
        ("total", [r["loss"] for r in records]),
        ("scale 1 x 1", [r["scale_losses"][1] for r in records]),
        ("training", [100 * r["train_accuracy"] for r in records]),
        ("validation", [math.nan if r["val_accuracy"] is None else 100 * r["val_accuracy"] for r in records]),
    ):
        np.testing.assert_allclose(lines[name][:, 0], range(1, 41))
        np.testing.assert_allclose(lines[name][:, 1], expected)
    np.testing.assert_allclose(rate.lines[0].get_ydata(), [1 / i for i in range(1, 41)])
    assert "1e-3" in rate.get_ylabel()
    without = [r | {"val_accuracy": None} for r in records]
    curves.save_curves(tmp_path / "curves", without, ("scale 1 x 1",), "")  # one scale is the total
    assert [line.get_label() for line in drawn.axes[0].lines] == ["total"]
    assert [line.get_label() for line in drawn.axes[1].lines] == ["training"]


@pytest.mark.parametrize("n_epochs", [1, 2, 3, 6, 40])
@pytest.mark.parametrize("names", [("scale 1 x 1",), ("scale 5 x 5", "scale 3 x 3", "scale 1 x 1"), SCALES], ids=len)
def test_no_legend_of_the_curves_covers_them_or_the_title_or_is_cut_off(tmp_path, monkeypatch, n_epochs, names):
    drawn = []

    def keep(*arguments):
        with sheet(*arguments) as figure:
            yield figure
        drawn.append(figure)

    sheet = style.sheet
    monkeypatch.setattr(curves, "sheet", contextmanager(keep))
    monkeypatch.setattr(style, "DPI", 60)
    record = {"loss": 2.0, "scale_losses": [2.0] * len(names), "lr": 1e-3, "train_accuracy": 1.0, "val_accuracy": 1.0}
    records = [record | {"epoch": epoch} for epoch in range(1, n_epochs + 1)]
    curves.save_curves(tmp_path / "curves", records, names, "MiM-v1 on a scene " * 5)
    (figure,) = drawn
    title = figure.texts[0].get_window_extent()
    for axes in figure.axes[:2]:
        legend = axes.get_legend().get_window_extent()
        assert legend.y0 >= axes.bbox.y1 - 1  # all that is drawn lies within the axes
        assert not any(other.bbox.y0 < legend.y1 and legend.y0 < other.bbox.y1 for other in figure.axes)
        assert legend.y1 <= title.y0
        assert legend.x0 >= 0
        assert legend.x1 <= figure.bbox.x1


def test_curves_of_a_single_epoch_are_drawn(tmp_path):
    record = {"epoch": 1, "loss": None, "scale_losses": [None], "lr": 1e-3, "train_accuracy": 0.5, "val_accuracy": None}
    curves.save_curves(tmp_path / "curves", [record], ("",), "diverged at once")
    assert min(read_png(tmp_path / "curves.png").shape[:2]) > 1000


@pytest.mark.parametrize("n_classes", [2, 3, 16, 22])
def test_a_confusion_matrix_has_the_ground_truth_in_its_rows_first_class_on_top(drawn, tmp_path, n_classes):
    confusion = np.diag(np.arange(10, 10 + n_classes))
    confusion[0, 1], confusion[-1] = 30, 0  # a class without pixels
    names = tuple(f"class {i}" for i in range(n_classes))
    curves.save_confusion(tmp_path / "confusion", confusion, names, "")
    axes = drawn.axes[0]
    shares = axes.images[0].get_array()
    assert shares[0, 1] == pytest.approx(75)
    assert shares[1, 0] == 0
    assert shares[0, 0] == pytest.approx(25)
    assert axes.get_ylabel() == "ground truth"
    assert axes.get_xlabel() == "prediction"
    assert axes.yaxis_inverted()
    assert not axes.xaxis_inverted()
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"{i + 1} class {i}" for i in range(n_classes)]
    assert {text.get_position(): text.get_text() for text in axes.texts}[1, 0] == "75"


@pytest.mark.parametrize("scene", ["IndianPines", "WHU-Hi-HongHu", "Houston2018"])
def test_the_picture_of_a_confusion_matrix_fits_a_page(tmp_path, scene):
    names = SCENES[scene].class_names
    curves.save_confusion(tmp_path / "confusion", np.full((len(names),) * 2, 3), names, "a title")
    image = read_png(tmp_path / "confusion.png")
    assert image.shape[1] / 300 * INCH <= 18.05
    assert (image[:, [0, 1, -2, -1]] == 255).all()
    assert (image[[0, 1, -2, -1]] == 255).all()


def test_the_curve_over_distance_is_that_of_the_entries(drawn, tmp_path):
    entries = [{"from": i, "to": i, "n": 10 * i, "accuracy": a} for i, a in ((1, 0.9), (2, 0.5), (3, 0.1))]
    curves.save_accuracy_by_distance(tmp_path / "distance", entries, "")
    (axes,) = drawn.axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [90, 50, 10])
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], [100 / 6, 200 / 6, 50])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1\n10", "2\n20", "3\n30"]


@pytest.mark.parametrize("shape", [(30, 20), (20, 60)], ids=["histogram beside", "histogram below"])
def test_the_picture_of_an_audit_has_training_pixels_and_distances_in_their_shares(tmp_path, shape):
    train, test = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    train[:, :5], test[:, 5:7] = 1, 2
    distance = np.maximum(np.arange(shape[1]) - 4, 0)[None].repeat(shape[0], 0)
    curves.save_audit(tmp_path / "audit", train, test, distance, 3, "a title")
    image = read_png(tmp_path / "audit.png")
    trained = count(image, (0xD6, 0x27, 0x28))
    assert trained > 0.02 * image.shape[0] * image.shape[1]
    assert count(image, (0xEE, 0xEE, 0xEE)) / trained == pytest.approx((shape[1] - 7) / 5, rel=0.1)


def test_the_picture_of_an_audit_bears_test_pixels_that_train(tmp_path):
    labels = np.ones((4, 4), dtype=np.int64)
    curves.save_audit(tmp_path / "audit", labels, labels, 0 * labels, 7, "overlap")
    assert min(read_png(tmp_path / "audit.png").shape[:2]) > 300


@pytest.mark.parametrize("wavelengths", [None, (450.0, 550.0, 900.0)])
def test_the_spectra_are_drawn_class_by_class_with_mean_spread_and_pixels(drawn, tmp_path, wavelengths):
    rng = np.random.default_rng(0)
    cube, labels = rng.normal(size=(8, 8, 3)), rng.choice([0, 1, 3], (8, 8))
    (mean, std), some = class_spectra(cube, labels, 3), random_spectra(cube, labels, 3, 4, rng)
    curves.save_spectra(tmp_path / "spectra", (mean, std), some, NAMES, PALETTE, wavelengths, "")
    plots = [axes for axes in drawn.axes if axes.get_visible()]
    assert [axes.get_title() for axes in plots] == ["1 Corn", "3 Water"]  # Woods has no pixel
    for axes, k in zip(plots, (0, 2), strict=True):
        *pixels, average = [line.get_xydata() for line in axes.lines]
        np.testing.assert_allclose(average.T, [wavelengths or (1, 2, 3), mean[k]])
        np.testing.assert_allclose([pixel[:, 1] for pixel in pixels], some[k])
        band = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert band.min() == pytest.approx((mean - std)[k].min())
        assert band.max() == pytest.approx((mean + std)[k].max())
    assert plots[-1].get_xlabel() == ("wavelength (nm)" if wavelengths else "band")
