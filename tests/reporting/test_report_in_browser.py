"""report.html in a real browser, opened from disk with the network off."""

import base64
import re
import shutil
import subprocess
import tarfile
import time

import numpy as np
import pytest
from browser import browser  # noqa: F401
from filelock import FileLock
from finished_run import COMMAND, write_run

from reporting.page.png import encode_png
from reporting.page.report import ERRORS, SAFE_PALETTE, SPLIT, write_report
from reporting.run_folder import FURTHER_MAPS, MAPS
from scenes.catalogue import PALETTE

NAMES22 = tuple(f"{name} {i}" for i, name in enumerate(["Corn & <b>maize</b>", "Bare soil of a very long name"] * 11))
AXE = "axe-core@4.14.1"


@pytest.fixture
def opened(browser, tmp_path):  # noqa: F811
    """Write a run and its page and open it from disk with the network off; gives browser and run."""

    def go(width=1280, height=900, **settings):
        run = write_run(tmp_path / "run", **settings)
        write_report(run, COMMAND)
        browser.go_offline()
        browser.resize(width, height)
        browser.requests()  # forget those of earlier pages
        browser.complaints()
        browser.driver.get((run.folder / "report.html").as_uri())
        deadline = time.monotonic() + 20
        while not browser.run("return document.documentElement.classList.contains('scripted')"):
            assert time.monotonic() < deadline, browser.complaints()
            time.sleep(0.05)
        return browser, run

    return go


@pytest.fixture(scope="session")
def axe(pytestconfig):
    """The source of axe-core, fetched once into pytest's cache; the test skips if npm cannot."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, so axe-core cannot be fetched")
    home = pytestconfig.cache.mkdir("axe-core")
    with FileLock(str(home / "lock")):
        script = home / f"{AXE}.js"
        if not script.exists():
            try:
                asked = ["npm", "pack", AXE, "--silent"]
                name = subprocess.run(asked, cwd=home, capture_output=True, text=True, timeout=120, check=True).stdout
            except (OSError, subprocess.SubprocessError) as error:
                pytest.skip(f"npm could not fetch axe-core ({type(error).__name__})")
            with tarfile.open(home / name.split()[-1]) as archive:
                file = archive.extractfile("package/axe.min.js")
                assert file is not None
                script.write_bytes(file.read())
    return script.read_text(encoding="utf-8")


def place_of(browser, row, column):  # noqa: F811
    """Where a pixel of the scene lies in the window, found from the picture's size alone: (x, y)."""
    browser.run("document.getElementById('map').scrollIntoView({block: 'center', behavior: 'instant'})")
    box = browser.run("return document.getElementById('map').getBoundingClientRect().toJSON()")
    height, width = browser.shape
    scale = min(box["width"] / width, box["height"] / height)
    left, top = (box["width"] - scale * width) / 2, (box["height"] - scale * height) / 2
    return box["x"] + left + (column + 0.5) * scale, box["y"] + top + (row + 0.5) * scale


def mouse(browser, kind, x, y, **more):  # noqa: F811
    browser.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **more})


def read_out(browser):  # noqa: F811
    return re.sub(r"\s+", " ", browser.run("return document.getElementById('readout').textContent"))


def colour_at(browser, row, column):  # noqa: F811
    """The colour of a pixel of the scene as the canvas shows it."""
    x, y = place_of(browser, row, column)
    return tuple(
        browser.run(
            "const map = document.getElementById('map'), box = map.getBoundingClientRect();"
            "return [...map.getContext('2d').getImageData(arguments[0] - box.x, arguments[1] - box.y, 1, 1).data]",
            x,
            y,
        )[:3]
    )


def rgb(colour):
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def expected(run, row, column):
    """What the read-out must say of a pixel, from the files of the run alone."""
    prediction = np.load(run.folder / "prediction.npy")
    with np.load(run.folder / "maps.npz") as archive:
        at = {name: archive[name][row, column] for name in (*MAPS, *FURTHER_MAPS) if name in archive}
    label, truth = int(prediction[row, column]), int(at["truth"])
    said = [f"Row {row}", f"column {column}"]
    said.append(f"Predicted {label} {run.class_names[label - 1]}" if label else "Predicted nothing")
    said.append(f"Ground truth {truth} {run.class_names[truth - 1]}" if truth else "Ground truth unlabelled")
    if label:
        said.append(f"Confidence {np.round(200 * np.float32(at['confidence'])) / 2:.1f} %")
    if label and "sets" in at:
        n = int(at["sets"].sum())
        said.append(f"Prediction set of {n} class{'es' if n > 1 else ''}")
    if at["test"]:
        said.append("test pixel, right" if label == truth else "test pixel, wrong")
    elif at["train"] or at["validation"]:
        said.append("training pixel" if at["train"] else "validation pixel")
    else:
        said.append("neither training nor test pixel" if truth else "no label")
    return said


def test_hover_shows_the_true_values_and_nothing_is_asked_for(opened):
    browser, run = opened()  # noqa: F811
    browser.shape = run.prediction.shape
    maps = run.maps
    wrong = (maps["test"] > 0) & (run.prediction != maps["truth"])
    kinds = [wrong, (maps["test"] > 0) & ~wrong, maps["train"] > 0, maps["validation"] > 0, run.prediction == 0]
    kinds.append((maps["truth"] == 0) & (run.prediction > 0))
    corners = [(0, 0), (19, 29), (0, 29), (19, 0)]
    for row, column in [*(np.argwhere(kind)[len(np.argwhere(kind)) // 2] for kind in kinds), *corners]:
        mouse(browser, "mouseMoved", *place_of(browser, row, column))
        said = read_out(browser)
        for part in expected(run, int(row), int(column)):
            assert part in said, (row, column)
    page = (run.folder / "report.html").as_uri()
    assert set(browser.requests()) == {page}
    assert browser.complaints() == []
    assert (
        browser.run("return performance.getEntriesByType('resource').filter(e => !/^data:/.test(e.name)).length") == 0
    )


def test_the_toggle_shows_each_map_in_its_colours_and_the_slider_two(opened):
    browser, run = opened()  # noqa: F811
    browser.shape = run.prediction.shape
    maps, pixels = run.maps, [(5, 7), (12, 20), (17, 3), (0, 4), (9, 15)]
    tested = maps["test"] > 0
    codes = {
        "errors": (np.where(tested, np.where(run.prediction == maps["truth"], 1, 2), 0), [c for _, c in ERRORS]),
        "split": (
            np.select([maps["train"] > 0, maps["validation"] > 0, tested], [1, 2, 3]),
            [colour for _, colour in SPLIT],
        ),
        "prediction": (run.prediction, ["#000000", *run.palette]),
        "truth": (maps["truth"], ["#000000", *run.palette]),
    }
    for name, (codes_of, colours) in codes.items():
        browser.run("document.querySelector(`input[value=${arguments[0]}]`).click()", name)
        for pixel in pixels:
            assert colour_at(browser, *pixel) == rgb(colours[codes_of[pixel]]), name
    browser.run("document.querySelector('input[value=false_colour]').click()")
    for pixel in pixels:
        assert colour_at(browser, *pixel) == tuple(maps["false_colour"][pixel])
    browser.run("document.querySelector('input[value=confidence]').click()")
    shades = {pixel: colour_at(browser, *pixel) for pixel in pixels}
    assert shades[(0, 4)] == (0, 0, 0)  # not predicted
    greens = sorted(pixels[:3] + pixels[4:], key=lambda pixel: shades[pixel][1])
    assert greens == sorted(pixels[:3] + pixels[4:], key=lambda pixel: maps["confidence"][pixel])  # viridis

    browser.run("document.querySelector('input[value=prediction]').click()")
    select = "const other = document.getElementById('compare'); other.value = 'truth';"
    browser.run(select + "other.dispatchEvent(new Event('change'))")
    left, right = (5, 7), (5, 25)
    rows = np.argwhere((maps["truth"] != run.prediction)[:, 7] & (maps["truth"] != run.prediction)[:, 25])
    left, right = ((int(rows[0][0]), column) for column in (7, 25))
    assert colour_at(browser, *left) == rgb(["#000000", *run.palette][run.prediction[left]])
    assert colour_at(browser, *right) == rgb(["#000000", *run.palette][maps["truth"][right]])
    x, y = place_of(browser, left[0], 14.5)  # the divider stands in the middle; drag it to the left
    mouse(browser, "mousePressed", x, y, button="left", buttons=1, clickCount=1)
    mouse(browser, "mouseMoved", place_of(browser, left[0], 3)[0], y, button="left", buttons=1)
    mouse(browser, "mouseReleased", place_of(browser, left[0], 3)[0], y, button="left", clickCount=1)
    assert colour_at(browser, *left) == rgb(["#000000", *run.palette][maps["truth"][left]])
    assert int(browser.run("return document.getElementById('divider').value")) < 20
    browser.run(
        "const line = document.getElementById('divider'); line.value = 90; line.dispatchEvent(new Event('input'))"
    )
    assert colour_at(browser, *right) == rgb(["#000000", *run.palette][run.prediction[right]])


def test_keys_alone_reach_and_read_every_pixel_and_control(opened):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser, run = opened()  # noqa: F811
    reached = []
    for _ in range(60):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        element = "const e = document.activeElement; return e.id || e.name || e.className || e.textContent.slice(0, 12)"
        reached.append(browser.run(element))
        if len(reached) > 1 and browser.run("return document.activeElement === document.body"):
            break  # once round
        outline = browser.run(
            "const e = document.activeElement, of = e.matches('.choice input') ? e.parentElement : e;"
            "return getComputedStyle(of).outlineStyle"
        )
        assert outline != "none", reached[-1]
    for wanted in ("layer", "compare", "safe", "map", "closer", "whole", "counts", "plot"):
        assert wanted in reached, wanted
    browser.run("document.getElementById('map').focus()")
    ActionChains(browser.driver).send_keys(Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_RIGHT).perform()
    for part in expected(run, 9, 16):
        assert part in read_out(browser)
    ActionChains(browser.driver).key_down(Keys.SHIFT).send_keys(Keys.ARROW_LEFT).key_up(Keys.SHIFT).perform()
    ActionChains(browser.driver).send_keys("+", "+", "+", Keys.ARROW_DOWN).perform()
    for part in expected(run, 10, 6):
        assert part in read_out(browser)
    ActionChains(browser.driver).send_keys(*[Keys.ARROW_LEFT] * 9).perform()
    assert "column 0" in read_out(browser)  # and no further
    browser.run("document.querySelector('#training-charts .plot').focus()")
    ActionChains(browser.driver).send_keys(Keys.HOME, Keys.ARROW_RIGHT).perform()
    assert browser.run("return document.querySelector('#training-charts .plot').getAttribute('aria-valuetext')") == (
        "Epoch 2: total 1.2500 · scale 3 x 3 1.2500 · scale 1 x 1 1.4500"
    )


def test_zoomed_and_dragged_the_map_still_reads_the_pixel_under_the_pointer(opened):
    browser, run = opened()  # noqa: F811
    browser.shape = run.prediction.shape
    x, y = place_of(browser, 12, 20)
    mouse(browser, "mouseWheel", x, y, deltaX=0, deltaY=-300, modifiers=2)  # with Ctrl
    browser.driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 100))")
    mouse(browser, "mouseMoved", x + 1, y)
    assert "Row 12 column 20" in read_out(browser)  # it stays under the pointer
    mouse(browser, "mousePressed", x, y, button="left", buttons=1, clickCount=1)
    mouse(browser, "mouseMoved", x - 60, y - 30, button="left", buttons=1)
    mouse(browser, "mouseReleased", x - 60, y - 30, button="left", clickCount=1)
    mouse(browser, "mouseMoved", x - 59, y - 30)
    said = read_out(browser)
    assert "Row 12 column 20" in said
    for part in expected(run, 12, 20):
        assert part in said


def test_a_finger_reads_a_pixel_on_a_phone(opened):
    browser, run = opened(390, 844)  # noqa: F811
    browser.shape = run.prediction.shape
    browser.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    x, y = place_of(browser, 4, 22)
    for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
        browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    for part in expected(run, 4, 22):
        assert part in read_out(browser)


def test_a_class_is_singled_out_while_pointed_at_and_for_good_when_pressed(opened):
    browser, run = opened()  # noqa: F811
    browser.shape = run.prediction.shape
    inside, outside = (tuple(map(int, np.argwhere(run.prediction == label)[40])) for label in (2, 1))
    before = colour_at(browser, *outside)
    button = browser.driver.find_elements("css selector", ".legend button")[1]
    button.click()
    mouse(browser, "mouseMoved", 5, 5)
    assert colour_at(browser, *inside) == rgb(run.palette[1])
    assert colour_at(browser, *outside) != before
    assert min(colour_at(browser, *outside)) > 200
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    mouse(browser, "mouseMoved", 5, 5)
    assert colour_at(browser, *outside) == before == rgb(run.palette[0])
    box = browser.run("return arguments[0].getBoundingClientRect().toJSON()", button)
    mouse(browser, "mouseMoved", box["x"] + 20, box["y"] + 10)
    at = browser.run("return scrollY")
    assert min(colour_at(browser, *outside)) > 200, at


def test_the_safe_colours_are_one_click_away_everywhere(opened):
    browser, run = opened(names=NAMES22, shape=(60, 80))  # noqa: F811
    browser.shape = run.prediction.shape
    pixel = (30, 40)
    label = int(run.prediction[pixel])
    assert colour_at(browser, *pixel) == rgb(PALETTE[label - 1])
    browser.driver.find_element("id", "safe").click()
    assert colour_at(browser, *pixel) == rgb(SAFE_PALETTE[label - 1])
    for selector in (f"#classes .c{label}", f".legend .c{label}"):
        shown = browser.run("return getComputedStyle(document.querySelector(arguments[0])).backgroundColor", selector)
        assert shown == "rgb({}, {}, {})".format(*rgb(SAFE_PALETTE[label - 1]))
    browser.driver.find_element("id", "safe").click()
    assert colour_at(browser, *pixel) == rgb(PALETTE[label - 1])


def test_tables_sort_and_the_confusion_matrix_shows_both_classes(opened):
    browser, run = opened()  # noqa: F811
    head = browser.driver.find_elements("css selector", "#classes thead th button")[4]  # recall
    column = "return [...document.querySelectorAll('#classes tbody tr')].map((row) => row.cells[1].textContent)"
    recalls = dict(zip(run.class_names, run.metrics["class_recall"], strict=True))
    with_recall = [name for name in run.class_names if recalls[name] is not None]
    for sign, word in ((1, "ascending"), (-1, "descending")):
        head.click()
        without = [name for name in run.class_names if recalls[name] is None]
        assert browser.run(column) == sorted(with_recall, key=lambda name: sign * recalls[name]) + without
        assert browser.run("return arguments[0].parentElement.ariaSort", head) == word
    count = run.metrics["confusion"][0][1]
    share = 100 * count / sum(run.metrics["confusion"][0])
    cell = "document.querySelectorAll('#confusion tbody tr')[0].cells[2]"
    browser.run(f"{cell}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    box = browser.run(f"return {cell}.getBoundingClientRect().toJSON()")
    mouse(browser, "mouseMoved", box["x"] + 8, box["y"] + 8)
    shown = browser.run("return document.getElementById('pair').textContent")
    assert shown == f"{count} test pixels of 1 Corn ({share:.1f} % of the class), predicted as 2 Woods"
    assert browser.run(f"return {cell}.innerText") == f"{share:.1f}"
    browser.driver.find_element("id", "counts").click()
    assert browser.run(f"return {cell}.innerText") == str(count)


def test_the_curves_read_out_the_epoch_under_the_pointer(opened):
    browser, run = opened()  # noqa: F811
    plots = browser.driver.find_elements("css selector", "#training-charts .plot")
    assert len(plots) == 3
    browser.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plots[1])
    box = browser.run("return arguments[0].getBoundingClientRect().toJSON()", plots[1])
    mouse(browser, "mouseMoved", box["x"] + 54, box["y"] + 60)  # just right of the axis: the first epoch
    shown = browser.run("return document.querySelectorAll('#training-charts .chart-readout')[1].textContent")
    assert shown == "Epoch 1: training 20.00 % · validation 10.00 %"
    entry = run.metrics["accuracy_by_distance"][-1]
    shown = browser.run("return document.querySelector('#distance-chart .chart-readout').textContent")
    assert f"right {100 * entry['accuracy']:.2f} %" in shown
    shown = browser.run("return [...document.querySelectorAll('#certainty .chart-readout')].map((e) => e.textContent)")
    last = run.metrics["calibration"]["bins"][-1]
    assert shown[0].startswith(f"Confidence 93 to 100 %: right {100 * last['accuracy']:.2f} %")
    assert shown[1] == f"The most certain 5 %: right {100 * run.metrics['accuracy_by_coverage'][-1]['accuracy']:.2f} %"
    assert "NaN" not in browser.run("return document.querySelector('main').innerHTML")


@pytest.mark.parametrize(
    ("width", "scheme", "safe"), [(1280, "light", False), (390, "light", True), (1280, "dark", True)]
)
def test_axe_finds_no_fault_and_a_phone_scrolls_only_down(opened, axe, width, scheme, safe):
    browser, _ = opened(width, names=NAMES22, shape=(60, 80), faults=("5 pixels both train and test",))  # noqa: F811
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    if safe:
        browser.driver.find_element("id", "safe").click()
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    browser.run("document.querySelector('details').open = true")
    browser.run("document.querySelectorAll('.legend button')[1].click()")
    browser.run("const o = document.getElementById('compare'); o.value = 'split'; o.dispatchEvent(new Event('change'))")
    browser.run("document.getElementById('map').focus()")
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    browser.run(axe)
    found = browser.driver.execute_async_script(
        "const done = arguments[0]; axe.run(document, {resultTypes: ['violations', 'incomplete']}).then(done)"
    )
    shown = [(each["id"], each["help"], each["nodes"][0]["html"][:120]) for each in found["violations"]]
    assert shown == []
    rules = {each["id"] for each in found["passes"]}
    looked_at = {"color-contrast", "label", "page-has-heading-one", "region", "th-has-data-cells"}
    assert looked_at | ({"scrollable-region-focusable"} if width == 390 else set()) <= rules
    # axe cannot judge single signs and text in charts (the colour of the help texts, which it judged); on a phone
    # neither what is scrolled out of sight, which is the same table as on a wide screen.
    unsure = {node["html"][:7] for each in found["incomplete"] for node in each["nodes"]}
    assert width == 390 or unsure <= {"<text x", "<button"}


def test_printed_the_page_shows_every_map_and_cuts_nothing(opened):
    browser, _ = opened(names=NAMES22, shape=(60, 80))  # noqa: F811
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.resize(700, 900)  # about the width of A4 between its margins
    sizes = "map((c) => [c.ariaLabel, c.offsetWidth, c.offsetHeight])"
    shown = browser.run(f"return [...document.querySelectorAll('.figures canvas')].{sizes}")
    assert [name.split(",")[0] for name, _, _ in shown] == [
        "Prediction", "Ground truth", "Errors", "False colour", "Confidence", "Split", "Prediction sets",
    ]  # fmt: skip
    assert all(width > 150 and height > 100 for _, width, height in shown)
    assert browser.run("return document.querySelector('.viewer').offsetHeight") == 0
    cut = (
        "return [...document.querySelectorAll('main *')].filter((e) => e.offsetWidth > 1 && !e.closest('.unseen') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert browser.run(cut) == []
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    pdf = base64.b64decode(printed)
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", pdf)) <= 8


def test_without_scripts_the_tables_and_the_still_maps_are_there(browser, tmp_path):  # noqa: F811
    run = write_run(tmp_path / "run")
    write_report(run, COMMAND)
    browser.go_offline()
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.driver.get((run.folder / "report.html").as_uri())
    tree = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
    pictures = [name for role, name in named if role == "image"]
    assert [name.split(",")[0] for name in pictures] == [
        "Prediction", "Ground truth", "Errors", "False colour", "Confidence", "Split", "Prediction sets",
    ]  # fmt: skip
    assert sum(role == "table" for role, _ in named) == 4 - 1  # that of the epochs is folded up
    buttons = [name for role, name in named if role in ("button", "radio", "slider")]
    assert buttons == []  # nothing that would do nothing
    assert any(role == "rowheader" and name == "Corn" for role, name in named)


def test_the_page_of_one_epoch_without_validation_works(opened):
    browser, _ = opened(n_epochs=1, n_scales=1, validation=False, shape=(9, 12))  # noqa: F811
    shown = browser.run("return [...document.querySelectorAll('#curves .chart-readout')].map((e) => e.textContent)")
    assert shown[0] == "Epoch 1: loss 2.5000"
    assert shown[1] == "Epoch 1: training 20.00 %"
    assert browser.run("return document.querySelectorAll('#training-charts svg .dot').length") >= 3
    assert "NaN" not in browser.run("return document.querySelector('main').innerHTML")
    assert browser.complaints() == []


def test_more_classes_than_a_byte_holds_are_read_right(opened):
    browser, _ = opened()  # noqa: F811
    labels = np.random.default_rng(0).integers(0, 2**16, (7, 11)).astype(np.uint16)
    address = f"data:image/png;base64,{base64.b64encode(encode_png(labels)).decode()}"
    script = "const done = arguments[1]; readPng(arguments[0]).then(({values}) => done([...values]))"
    assert browser.driver.execute_async_script(script, address) == labels.ravel().tolist()
