"""The live view: what a real visdom server shows of a run, in a real browser, and that it never disturbs the run."""

import base64
import io
import json
import socket
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from servers import VisdomServer, wait_until

import main
from metrics import scores
from reporting.figures import maps
from reporting.live import panes, visdom_monitor
from reporting.live import server as visdom_server
from reporting.live.client import Server, environment_name
from reporting.live.visdom_monitor import Subject, VisdomMonitor
from training import monitors
from utils import InputError

pytest_plugins = ["browser"]

NAMES, PALETTE = ("Land", "Water", "Roof"), ("#1f77b4", "#e13c2d", "#0f960f")
CURVES = ("training loss", "accuracy, %", "learning rate")
PICTURES = ("false colour", "ground truth", "train pixels", "validation pixels", "test pixels")
AT_END = ("prediction", "classes and scores, %", "settings", "confusion matrix, %")
SPECTRA = ("spectra: mean and standard deviation of each class", "spectra of random training pixels")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Small pictures, no pause between two sendings, and a server that is away is asked again soon."""
    monkeypatch.setattr(maps, "DPI", 40)
    monkeypatch.setattr(VisdomMonitor, "PAUSE", (0.01, 0.05))
    monkeypatch.setattr(VisdomMonitor, "RETRY", (0.05, 0.2))
    monkeypatch.setattr(VisdomMonitor, "WAIT_AT_END", 60.0)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A VisdomServer for the tests of this file."""
    server = VisdomServer(tmp_path_factory.mktemp("keep"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def scripts():
    """Install the scripts of visdom's page; the test skips if npm cannot fetch them."""
    try:
        visdom_server.install_scripts(visdom_server.static_folder())
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture
def train(tiny_scene, tmp_path, capsys):
    """Run the main job on Tiny; returns its output and the run's folder."""

    def call(*arguments, output="runs", model="MiM-v1", code=0):
        common = ["--dataset", "tiny", "--folder", tiny_scene.folder, "--output", tmp_path / output, "--cuda", "-1"]
        common += ["--model", model, "--patch_size", "5", "--val_fraction", "0.2", "--epoch", "4"]
        if model != "CNN":
            common += ["--dim", "8", "--d_inner", "8", "--d_state", "4"]
        assert main.main(list(map(str, [*common, *arguments]))) == code
        captured = capsys.readouterr()
        folders = sorted((tmp_path / output).glob("*/*/2*"), key=lambda path: path.stat().st_ctime_ns)
        return captured.out + captured.err, folders[-1]

    return call


def _environment(folder, patch=5):
    return f"Tiny_{folder.parent.parent.name}_p{patch}_{folder.name}"


def _result(folder):
    """What must not depend on a server: figures, map and weights."""
    metrics = json.loads((folder / "metrics.json").read_text())
    del (
        metrics["seconds"],
        metrics["checkpoint"],
        metrics["protocol"]["machine"],
    )  # the commit may change while the test runs
    weights = torch.load(folder / "last.pt", weights_only=True)["state"]["weights"]
    bits = {name: tensor.numpy().tobytes() for name, tensor in weights.items()}
    return metrics, (folder / "prediction.npy").read_bytes(), bits


def _no_map(*_):
    raise AssertionError("a map for nobody")


def _visdom_lines(said):
    return [line for line in said.splitlines() if "visdom s" in line]


def _subject(**changes):
    facts = {
        "environment": "Here_run",
        "shared": "Here_all",
        "name": "run",
        "about": "",
        "n_epochs": 100,
        "n_train": 100,
    }
    facts |= {"shape": (40, 50), "class_names": NAMES, "palette": PALETTE, "counts": {"train": [1, 2, 3]}}
    return Subject(**(facts | {"settings": {"model": "CNN"}, "pictures": {}} | changes))


def _record(epoch, **changes):
    record = {"epoch": epoch, "lr": 1e-3, "loss": 1 / epoch, "scale_losses": [1 / epoch], "train_accuracy": 0.5}
    return record | {"val_accuracy": None, "seconds": 1.0} | changes


def _decoded(pane):
    source = pane["data"][0]["content"]["src"]
    return np.array(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


# What the page shows.


def _open(browser, server, environment, titles):
    """Open an environment in the browser and wait until all its panes are drawn."""
    browser.resize(1400, 3000)
    browser.driver.get(f"{server.url}/env/{environment}")
    script = "return [...document.querySelectorAll('.bar > div.pull-right')].map(e => e.textContent)"
    wait_until(lambda: set(titles) <= set(browser.run(script)), "every pane is on the page")
    figures = """const figures = [...document.querySelectorAll('.plotly-graph-div')];
        return figures.length > 0 && figures.every(f => f.querySelector('.main-svg') !== null)"""
    wait_until(lambda: browser.run(figures), "every figure is drawn")
    pictures = "return [...document.querySelectorAll('img.content-image')].every(i => i.complete && i.naturalWidth > 0)"
    wait_until(lambda: browser.run(pictures), "every picture is loaded")
    return browser.run(script)


def _pixels(browser, title):
    """A picture's pixels as the browser has them, (H, W, 3), and how large it shows them."""
    script = """const pane = [...document.querySelectorAll('.window')].find(
            w => w.querySelector('.bar > div.pull-right').textContent === arguments[0]);
        const image = pane.querySelector('img'), canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        const context = canvas.getContext('2d');
        context.drawImage(image, 0, 0);
        const shown = image.getBoundingClientRect();
        return [[...context.getImageData(0, 0, canvas.width, canvas.height).data], canvas.width, canvas.height,
            shown.width, shown.height]"""
    values, width, height, *shown = browser.run(script, title)
    return np.array(values, dtype=np.uint8).reshape(height, width, 4)[..., :3], tuple(shown)


@pytest.mark.usefixtures("scripts")
def test_a_real_browser_shows_every_pane_of_a_run(train, server, browser, tiny_scene):
    said, folder = train("--visdom", server.url, "--with_exploration", "--patch_size", "5")
    assert f"visdom shows this run at {server.url}/env/{_environment(folder)}" in said
    expected = (*CURVES, *PICTURES, *AT_END, *SPECTRA)
    titles = _open(browser, server, _environment(folder), expected)
    assert sorted(titles) == sorted(expected), "a pane too many, or twice"

    text = browser.run("return document.body.innerText")
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in NAMES:
        assert name in text
    for words in ("MiM-v1", "patch size", folder.name, f"{100 * metrics['overall_accuracy']:.2f}"):
        assert words in text
    legends = browser.run("return [...document.querySelectorAll('.legendtext')].map(e => e.textContent)")
    assert {"total", "scale 3 x 3", "scale 1 x 1", "train", "validation", "1 Land", "2 Water", "3 Roof"} <= set(legends)

    # Colours, scale and orientation of the maps, pixel by pixel.
    table = np.array([(0, 0, 0), (0x1F, 0x77, 0xB4), (0xE1, 0x3C, 0x2D), (0x0F, 0x96, 0x0F)], dtype=np.uint8)
    prediction = np.load(folder / "prediction.npy")
    for title, labels in (
        ("ground truth", tiny_scene.gt),
        ("prediction", prediction),
        ("test pixels", tiny_scene.test),
    ):
        image, shown = _pixels(browser, title)
        factor = image.shape[1] // 12
        assert image.shape == (9 * factor, 12 * factor, 3), title
        assert factor > 20, title
        assert np.array_equal(image, table[labels].repeat(factor, 0).repeat(factor, 1)), title
        # A pane may stand between two pixels of the screen, whose arithmetic rounds its sides.
        assert shown == pytest.approx((12 * factor, 9 * factor), abs=0.01), f"{title} is not shown as it is"

    # The confusion matrix stands right way up: the first class at the top and on the left.
    script = """const figures = [...document.querySelectorAll('.plotly-graph-div')];
        const figure = figures.find(f => f.data[0].type === 'heatmap');
        const at = (name, side) => Object.fromEntries([...figure.querySelectorAll(name)].map(
            e => [e.textContent, e.getBoundingClientRect()[side]]));
        return [at('.ytick text', 'top'), at('.xtick text', 'left'), figure.data[0].customdata]"""
    down, right, counts = browser.run(script)
    assert down["1 Land"] < down["2 Water"] < down["3 Roof"]
    assert right["1 Land"] < right["2 Water"] < right["3 Roof"]
    assert counts == metrics["confusion"]

    # Nothing overlaps, and nothing is wider than the page.
    boxes = browser.run("""return [...document.querySelectorAll('.react-grid-item .window')].map(
        w => { const b = w.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom] })""")
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0
        assert right <= 1400
        for other in boxes[:i]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    assert [url for url in browser.requests() if not url.startswith(server.url)] == []
    assert browser.complaints() == []


@pytest.mark.usefixtures("scripts")
def test_the_runs_of_a_sweep_stand_side_by_side(train, server, browser):
    train("--visdom", server.url, "--runs", "2", output="sweep")
    train("--visdom", server.url, output="sweep", model="CNN")
    curves = ["training loss", "train accuracy, %", "validation accuracy, %"]
    titles = _open(browser, server, "Tiny_all_sweep", [*curves, "final scores, %"])
    assert len(titles) == 4
    script = """return Object.fromEntries([...document.querySelectorAll('.plotly-graph-div')].map(
        f => [f.layout.title.text, f.data.map(trace => [trace.name, trace.x, trace.y, trace.text])]))"""
    figures = browser.run(script)
    names = [name for name, *_ in figures["training loss"]]
    assert len(set(names)) == 3, names
    assert sum("MiM-v1 p5" in name for name in names) == 2, names
    for title in curves:
        assert [(name, x) for name, x, *_ in figures[title]] == [(name, [1, 2, 3, 4]) for name in names], title
    assert {(name, *y) for name, _, y, _ in figures["final scores, %"]} == {(name,) * 4 for name in names}
    ticks = browser.run("return [...document.querySelectorAll('.ytick text')].map(e => e.textContent)")
    assert set(names) <= set(ticks)
    assert browser.complaints() == []


@pytest.mark.usefixtures("scripts")
def test_class_names_are_shown_letter_by_letter_and_never_as_html(server, browser):
    subject = _subject(environment="Odd_run", class_names=("<b>Land</b>", "R&D <script>", "Ünder_water"))
    monitor = VisdomMonitor(server.url, subject, _no_map)
    monitor.epoch(_record(1), None)
    monitor.close()
    _open(browser, server, "Odd_run", ["classes", *CURVES])
    text = browser.run("return document.body.innerText")
    for name in subject.class_names:
        assert name in text


# The server comes and goes.


def test_a_server_that_comes_late_dies_and_comes_back_changes_no_bit_and_shows_everything(train, tmp_path, monkeypatch):
    _, without = train("--epoch", "12", "--visdom", "off", output="without")
    server, epoch = VisdomServer(tmp_path / "keep"), VisdomMonitor.epoch
    maps = []

    def disturbed(monitor, record, model):
        epoch(monitor, record, model)
        maps.append(monitor.seconds_drawn > 0)
        if record["epoch"] in (3, 9):
            wait_until(lambda: monitor.answers is False, "that no server answers is noticed")
            server.start()
            wait_until(lambda: monitor.answers, "the server shows the run")
        if record["epoch"] == 6:
            server.kill()

    monkeypatch.setattr(VisdomMonitor, "epoch", disturbed)
    monkeypatch.setattr(VisdomMonitor, "DRAWING_FRACTION", 1e6)  # a map after every epoch in which a server answers
    monkeypatch.setattr(VisdomMonitor, "MAPS", 100)
    try:
        said, folder = train("--epoch", "12", "--visdom", server.url)
        windows = server.windows(_environment(folder)), server.windows("Tiny_all")
        server.kill()
        server.start()
        kept = server.windows(_environment(folder)), server.windows("Tiny_all")
    finally:
        server.kill()
    assert maps == [False] * 3 + [True] * 9
    assert _result(folder) == _result(without)
    assert set(windows[0]) == {*CURVES, *PICTURES, *AT_END}
    for title in CURVES:
        assert all(line["x"] == list(range(1, 13)) for line in windows[0][title]["content"]["data"]), title
    assert windows[1]["training loss"]["content"]["data"][0]["x"] == list(range(1, 13))
    expected = (
        "no visdom server answers",
        "visdom shows this run",
        "the visdom server at",
        "the visdom server is back",
    )
    lines = _visdom_lines(said)
    assert len(lines) == 4, lines
    assert all(map(str.startswith, lines, expected))
    assert "no longer answers" in lines[2]
    assert kept == windows, "what a finished run showed is there after the server was started again"


def test_a_visdom_server_that_is_not_there_is_one_line_and_the_run_continues(train):
    said, _ = train("--visdom", "http://127.0.0.1:9", model="CNN")
    lines = _visdom_lines(said)
    assert len(lines) == 1, lines
    assert "training continues" in lines[0]


@pytest.mark.parametrize("after", [None, 30.0], ids=["never", "after 30 s"])
def test_a_visdom_server_that_answers_late_or_never_does_not_hold_the_run_up_and_is_visdom_lines(
    train, monkeypatch, after
):
    monkeypatch.setattr(VisdomMonitor, "WAIT_AT_END", 0.2)
    epoch, took = VisdomMonitor.epoch, []

    def timed(monitor, record, model):
        started = time.perf_counter()
        epoch(monitor, record, model)
        took.append(time.perf_counter() - started)

    monkeypatch.setattr(VisdomMonitor, "epoch", timed)
    ended = threading.Event()
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        if after is not None:
            threading.Thread(target=_answer_late, args=(mute, after, ended), daemon=True).start()
        said, _ = train("--visdom", f"http://127.0.0.1:{mute.getsockname()[1]}", model="CNN")
        ended.set()
    lines = _visdom_lines(said)
    assert len(lines) == 1, lines
    assert "does not answer" in lines[0]
    assert len(took) == 4
    assert max(took) < 0.2


def _answer_late(listener, after, ended):
    connection, _ = listener.accept()
    ended.wait(after)
    connection.close()


def test_another_server_at_the_address_is_taken_for_none(train):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        threading.Thread(target=_answer_wrongly, args=(listener,), daemon=True).start()
        said, _ = train("--visdom", f"http://127.0.0.1:{listener.getsockname()[1]}", model="CNN")
        listener.shutdown(socket.SHUT_RDWR)
    lines = _visdom_lines(said)
    assert len(lines) == 1, lines
    assert "no visdom server answers" in lines[0]


def _answer_wrongly(listener):
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.recv(10_000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        connection.close()


def test_off_starts_nothing(train, monkeypatch):
    def refuse(*_):
        raise AssertionError("a live view")

    monkeypatch.setattr(monitors, "VisdomMonitor", refuse)
    monkeypatch.setattr(monitors, "_subject", refuse)
    said, _ = train("--visdom", "off", model="CNN")
    assert not _visdom_lines(said)


def test_a_proxy_of_the_environment_is_not_asked_for_a_server_on_loopback(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert "main" in Server(server.url, (30, 30)).environments()


@pytest.mark.parametrize("url", ["foo:bar", "http://", "ftp://localhost:8097", "localhost:0"])
@pytest.mark.usefixtures("train")
def test_an_address_that_is_none_is_one_sentence(capsys, url):
    assert main.main(["--dataset", "tiny", "--visdom", url]) == 2
    assert f"--visdom {url} is no address of a server" in capsys.readouterr().err


# Runs beside each other.


def test_runs_that_write_to_the_same_window_at_once_lose_no_line(server):
    n_runs, title, errors = 8, "training loss", []
    barrier = threading.Barrier(n_runs, timeout=60)

    class Together(Server):
        """Goes on when all have been lines that the window is not there yet."""

        def _post(self, endpoint, message):
            answer = super()._post(endpoint, message)
            if endpoint == "update" and "does not exist" in answer:
                barrier.wait()
            return answer

    def write(run):
        try:
            client = Together(server.url, (60, 60))
            for length in range(1, 6):
                records = [_record(epoch, loss=float(run)) for epoch in range(1, length + 1)]
                client.show(
                    "Many_all", title, panes.shared_curve(title, f"run {run}", "", records, "loss"), shared=True
                )
            client.show(
                "Many_all", "scores", panes.shared_scores(f"run {run}", scores(np.eye(3, dtype=int))), shared=True
            )
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(run,)) for run in range(n_runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    windows = server.windows("Many_all")
    for window in (title, "final scores, %"):  # written again and again, and once
        names = [line["name"] for line in windows[window]["content"]["data"]]
        assert sorted(names) == [f"run {run}" for run in range(n_runs)], window
    for line in windows[title]["content"]["data"]:
        assert line["x"] == [1, 2, 3, 4, 5]
        assert line["y"] == [float(line["name"][4:])] * 5


def test_a_resumed_run_continues_in_its_own_lines(train, server, monkeypatch):
    epoch = VisdomMonitor.epoch

    def interrupted(monitor, record, model):
        epoch(monitor, record, model)
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(VisdomMonitor, "epoch", interrupted)
        _, folder = train("--visdom", server.url, output="cut", model="CNN", code=130)
    assert main.main(["--resume", str(folder)]) == 0
    windows = server.windows(f"{_environment(folder)}_cut")
    assert windows["training loss"]["content"]["data"][0]["x"] == [1, 2, 3, 4]
    (line,) = server.windows("Tiny_all_cut")["training loss"]["content"]["data"]
    assert line["x"] == [1, 2, 3, 4]


def test_names_of_environments_say_nothing_else_to_visdom():
    assert environment_name("My_Scene+1", "MiM-v1", "p7", "a/b c") == "My-Scene-1_MiM-v1_p7_a-b-c"


# What it may cost.


class _Clock:
    """A clock that the test moves."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(visdom_monitor.time, "perf_counter", lambda: self.now)


@pytest.mark.parametrize("per_pixel", [1e-5, 1e-3, 1e-1])
def test_maps_while_training_take_no_more_than_their_share_of_the_time(monkeypatch, per_pixel):
    monkeypatch.setattr(VisdomMonitor, "_work", lambda _: None)
    clock, maps, n_epochs, drawn = _Clock(monkeypatch), [], 400, 0.0

    def draw(_, n_pixels):
        nonlocal drawn
        assert 400 <= n_pixels <= 2000
        started = clock.now
        clock.now += 0.05 + per_pixel * n_pixels
        drawn += clock.now - started
        maps.append(n_pixels)
        return np.ones((40, 50), dtype=np.uint8), n_pixels

    monitor = VisdomMonitor("http://127.0.0.1:9", _subject(n_epochs=n_epochs, n_train=250), draw)
    monitor.answers = True
    for epoch in range(1, n_epochs + 1):
        clock.now += 1.0
        monitor.epoch(_record(epoch), None)
        first = drawn if len(maps) == 1 else 0  # its price was a guess
        assert drawn <= 0.0101 * epoch + max(first, 0.05 + per_pixel * 400 * (len(maps) == 1)) + 0.06
    assert drawn < 0.02 * n_epochs if per_pixel < 1e-1 else len(maps) <= 1
    assert per_pixel == 1e-1 or len(maps) >= 4
    assert len(maps) <= VisdomMonitor.MAPS


def test_no_map_is_drawn_while_no_server_answers(monkeypatch):
    monkeypatch.setattr(VisdomMonitor, "_work", lambda _: None)
    monitor = VisdomMonitor("http://127.0.0.1:9", _subject(), _no_map)
    for answers in (None, False):
        monitor.answers = answers
        for epoch in range(1, 100):
            monitor.epoch(_record(epoch), None)


def test_noting_an_epoch_takes_next_to_no_time(monkeypatch):
    monkeypatch.setattr(VisdomMonitor, "_work", lambda _: None)
    monitor = VisdomMonitor("http://127.0.0.1:9", _subject(n_epochs=1000), _no_map)
    started = time.process_time()
    for epoch in range(1, 1001):
        monitor.epoch(_record(epoch), None)
    assert (time.process_time() - started) / 1000 < 1e-3


# The panes by themselves.


def test_a_pane_that_cannot_be_made_leaves_the_others_alone(server, caplog):
    def broken():
        raise MemoryError("too large")

    monitor = VisdomMonitor(server.url, _subject(environment="Part_run", spectra={"spectra": broken}), _no_map)
    with caplog.at_level("INFO"):
        monitor.epoch(_record(1), None)
        monitor.result(np.ones((40, 50), dtype=np.uint8), np.eye(3, dtype=int))
        monitor.close()
    assert {"training loss", "confusion matrix, %"} <= set(server.windows("Part_run"))
    assert sum("does not show the pane spectra" in record.getMessage() for record in caplog.records) == 1


def test_small_scenes_are_scaled_up_by_whole_numbers_and_huge_ones_thinned():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (145, 145, 3), dtype=np.uint8)
    assert np.array_equal(_decoded(panes.picture(small, "a")), small.repeat(3, 0).repeat(3, 1))
    middle = rng.integers(0, 256, (610, 340, 3), dtype=np.uint8)
    assert np.array_equal(_decoded(panes.picture(middle, "a")), middle)
    wide = rng.integers(0, 256, (349, 1905, 3), dtype=np.uint8)
    assert np.array_equal(_decoded(panes.picture(wide, "a")), wide[::3, ::3])
    for image in (small, middle, wide):
        pane = panes.picture(image, "a")
        height, width = _decoded(pane).shape[:2]
        assert (round(pane["opts"]["width"] + 1.5), round(pane["opts"]["height"] + 1.5)) == (width, height)
        assert width <= 900
        assert height <= 640


def test_thinning_a_mask_loses_no_block_that_has_a_labelled_pixel():
    rng = np.random.default_rng(1)
    labels = np.where(rng.random((1301, 1999)) < 0.02, rng.integers(1, 4, (1301, 1999)), 0)
    thinned = panes.thin(labels, 3, labels > 0)
    assert thinned.shape == (434, 667)
    for row in range(0, 434, 7):
        for column in range(0, 667, 7):
            block = labels[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
            there = block[block > 0]
            assert thinned[row, column] in there if len(there) else thinned[row, column] == 0
    assert np.array_equal(panes.thin(labels, 3), labels[::3, ::3])


def test_the_figures_are_those_of_the_confusion_matrix_and_what_is_not_defined_is_a_dash():
    confusion = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    text = panes.legend(NAMES, PALETTE, {"test": [10, 10, 0]}, scores(confusion))["data"][0]["content"]
    for words in ("85.00", "70.00", "80.00", "90.00", "84.21", "85.71", "–", *PALETTE, *NAMES):  # OA, kappa, recall, F1
        assert words in text, words
    pane = panes.confusion(confusion, NAMES)
    assert pane["data"][0]["z"] == [[80, 20, 0], [10, 90, 0], [0, 0, 0]]
    assert pane["layout"]["yaxis"]["autorange"] == "reversed"
    one_class = scores(np.array([[5]]))
    json.dumps(panes.shared_scores("run", one_class), allow_nan=False)


def test_spectra_have_a_line_and_its_spread_for_each_class_that_has_pixels():
    mean, std = np.array([[1.0, 2], [np.nan] * 2, [5, 6]]), np.array([[0.5, 0.25], [np.nan] * 2, [1, 2]])
    traces = panes.spectra(mean, std, NAMES, PALETTE, (400, 500), "wavelength, nm")["data"]
    assert [trace["name"] for trace in traces] == ["1 spread", "1 Land", "3 spread", "3 Roof"]
    assert traces[2]["x"] == [400, 500, 500, 400]
    assert traces[2]["y"] == [6, 8, 4, 4]
    assert traces[1]["y"] == [1, 2]
    assert traces[3]["line"]["color"] == PALETTE[2]
    samples = [np.array([[1.0, 2], [3, 4]]), np.empty((0, 2)), np.array([[5.0, 6]])]
    lines = panes.sample_spectra(samples, NAMES, PALETTE, (400, 500), "wavelength, nm")["data"]
    assert [line["name"] for line in lines] == ["1 Land", "3 Roof"]
    assert lines[0]["x"] == [400, 500, None] * 2
    assert lines[0]["y"] == [1, 2, None, 3, 4, None]


def test_exploration_looks_at_training_pixels_alone(train, tiny_scene, server):
    train("--visdom", server.url, "--with_exploration", "--val_fraction", "0", output="look")
    environment = next(name for name in server.environments() if name.endswith("_look") and "_all_" not in name)
    windows = server.windows(environment)
    lines = {line["name"]: line for line in windows[SPECTRA[0]]["content"]["data"]}
    for label, name in enumerate(NAMES, 1):
        expected = tiny_scene.cube[tiny_scene.train == label].astype(float).mean(0)
        assert lines[f"{label} {name}"]["y"] == pytest.approx(expected, rel=1e-4)
    pixels = {tuple(map(float, spectrum)) for spectrum in tiny_scene.cube[tiny_scene.train > 0]}
    for line in windows[SPECTRA[1]]["content"]["data"]:
        spectra = np.array([value for value in line["y"] if value is not None]).reshape(-1, 4)
        assert len(spectra) == monitors.SPECTRA_EACH
        assert {tuple(row) for row in spectra.tolist()} <= pixels
