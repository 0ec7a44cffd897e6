"""Downloads from a small server on this machine: resumed, checked, recorded, and refused in one sentence."""

import dataclasses
import gzip
import hashlib
import io
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import requests
from scipy.io import savemat

from cli.download import CHUNK, DownloadError, check, download
from scenes import catalogue

CUBE = np.random.default_rng(0).integers(0, 4000, (8, 5, 2000), dtype=np.uint16)
GT = np.zeros((8, 5), dtype=np.uint8)
GT[:3], GT[4:] = 1, 2  # 15 and 20 pixels
TRAIN, TEST = GT.T.copy(), GT.T.copy()
TRAIN[:, 1:], TEST[:, :1] = 0, 0  # (5, 8), transposed as in Houston2013
TINY = dataclasses.replace(
    catalogue.SCENES["Houston2013"],
    name="Tiny",
    cube_file="Tiny.mat",
    cube_key="tiny",
    shape=CUBE.shape,
    gt_file="Tiny_gt.mat",
    gt_key="tiny_gt",
    class_names=("Land", "Water"),
    class_counts=(15, 20),
    masks=catalogue.MaskSpec(("Land", "Water"), (5, 0), (10, 20), transposed=True),
    sums={},
    folder="Tiny",
)


def mat(**arrays):
    buffer = io.BytesIO()
    savemat(buffer, arrays)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `files`; `ranges` says what it makes of a Range header, `cut` after how many bytes it hangs up."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {
            "Tiny.mat": mat(tiny=CUBE),
            "Tiny_gt.mat": mat(tiny_gt=GT),
            "TRAIN_GT.mat": mat(TR=TRAIN),
            "TEST_GT.mat": mat(TE=TEST),
        }
        self.ranges = "served"
        self.cut = None
        self.asked = []  # (file, Range header or None)


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self):
        name, wanted = self.path.lstrip("/"), self.headers.get("Range")
        self.server.asked.append((name, wanted))
        body = self.server.files.get(name)
        if body is None:
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges != "ignored" else None
        if start is not None and start >= len(body):
            return self.send_error(416)
        self.send_response(200 if start is None else 206)
        if start is not None:
            start = 1 if self.server.ranges == "misread" else start
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        body = body[start:]
        if "gzip" in self.headers.get("Accept-Encoding", ""):  # as many servers do when they are let
            body = gzip.compress(body)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut])
        return None

    def log_message(self, format, *args):
        """Say nothing."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        urls = {name: f"http://127.0.0.1:{server.server_port}/{name}" for name in server.files}
        monkeypatch.setitem(catalogue.SCENES, "Tiny", dataclasses.replace(TINY, urls=urls))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_scene_arrives_complete_and_identical(server, tmp_path):
    paths = download("tiny", tmp_path)
    assert paths == [tmp_path / "Tiny" / name for name in ("Tiny.mat", "Tiny_gt.mat", "TRAIN_GT.mat", "TEST_GT.mat")]
    assert all(path.read_bytes() == server.files[path.name] for path in paths)
    assert names(tmp_path / "Tiny") == {*server.files, "SHA256SUMS"}


def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    server.cut = 100_000
    with pytest.raises(DownloadError, match=r"Tiny\.mat broke off after \d+ bytes: repeat the command") as caught:
        download("Tiny", tmp_path)
    assert names(tmp_path / "Tiny") == {"Tiny.mat.part"}
    held = (tmp_path / "Tiny" / "Tiny.mat.part").stat().st_size
    assert 100_000 - CHUNK <= held <= 100_000
    assert f" {held} bytes" in str(caught.value)

    server.cut = None
    path = download("Tiny", tmp_path)[0]
    assert server.asked[:2] == [("Tiny.mat", None), ("Tiny.mat", f"bytes={held}-")]
    assert path.read_bytes() == server.files["Tiny.mat"]
    assert not list(path.parent.glob("*.part"))


def test_a_body_that_ends_early_without_an_error_is_noticed(server, tmp_path, monkeypatch):
    monkeypatch.setattr(requests.Response, "iter_content", lambda response, _: iter([response.raw.read(700)]))
    with pytest.raises(DownloadError, match=r"Tiny\.mat broke off after 700 bytes"):
        download("Tiny", tmp_path)
    assert (tmp_path / "Tiny" / "Tiny.mat.part").read_bytes() == server.files["Tiny.mat"][:700]


@pytest.mark.parametrize("ranges", ["ignored", "misread"])
def test_a_server_that_cannot_resume_gives_the_whole_file_again(server, tmp_path, ranges):
    server.ranges = ranges
    (tmp_path / "Tiny").mkdir()
    (tmp_path / "Tiny" / "Tiny.mat.part").write_bytes(server.files["Tiny.mat"][:3000])
    assert download("Tiny", tmp_path)[0].read_bytes() == server.files["Tiny.mat"]
    assert ("Tiny.mat", "bytes=3000-") in server.asked


def test_a_part_that_is_longer_than_the_file_is_fetched_anew(server, tmp_path):
    (tmp_path / "Tiny").mkdir()
    (tmp_path / "Tiny" / "Tiny.mat.part").write_bytes(b"x" * 1_000_000)
    assert download("Tiny", tmp_path)[0].read_bytes() == server.files["Tiny.mat"]


@pytest.mark.parametrize(
    ("name", "content", "difference"),
    [
        ("Tiny.mat", b"<html>Please log in</html>", "it cannot be read"),
        ("Tiny.mat", mat(other=CUBE), "no variable 'tiny', only 'other'"),
        ("Tiny.mat", mat(tiny=CUBE[:, :, 1:]), r"shape of 'tiny' is \(8, 5, 1999\), but \(8, 5, 2000\)"),
        ("Tiny_gt.mat", mat(tiny_gt=GT.astype(float)), "labels are float64, but whole numbers"),
        ("Tiny_gt.mat", mat(tiny_gt=np.where(GT == 2, 1, GT)), "class 1 has 35 pixels, but 15 are expected"),
        ("Tiny_gt.mat", mat(tiny_gt=np.where(np.indices(GT.shape)[0] == 3, 3, GT)), "class 3 has 5 pixels, but 0"),
        ("TRAIN_GT.mat", mat(TR=TRAIN.T.copy()), r"shape of 'TR' is \(8, 5\), but \(5, 8\)"),
        ("TEST_GT.mat", mat(TE=TRAIN), "class 1 has 5 pixels, but 10 are expected"),
    ],
)
def test_wrong_content_leaves_nothing_in_place(server, tmp_path, name, content, difference):
    server.files[name] = content
    with pytest.raises(DownloadError, match=difference) as caught:
        download("Tiny", tmp_path)
    assert f"{server.server_port}/{name} sends is not the {name} of Tiny" in str(caught.value)
    assert not [found for found in names(tmp_path / "Tiny") if found.startswith((name, "."))]


@pytest.mark.usefixtures("server")
def test_a_known_sum_decides_even_if_the_content_fits(tmp_path, monkeypatch):
    spec = dataclasses.replace(catalogue.SCENES["Tiny"], sums={"Tiny_gt.mat": "0" * 64})
    monkeypatch.setitem(catalogue.SCENES, "Tiny", spec)
    with pytest.raises(DownloadError, match=f"its SHA-256 is [0-9a-f]{{64}}, but {'0' * 64} is expected"):
        download("Tiny", tmp_path)
    assert "Tiny_gt.mat" not in names(tmp_path / "Tiny")


def test_a_file_that_is_there_and_right_is_not_fetched_again(server, tmp_path):
    (tmp_path / "Tiny").mkdir()
    mine = mat(tiny=CUBE // 2)  # other bytes, same kind of content
    (tmp_path / "Tiny" / "Tiny.mat").write_bytes(mine)
    download("Tiny", tmp_path)
    assert {name for name, _ in server.asked} == {"Tiny_gt.mat", "TRAIN_GT.mat", "TEST_GT.mat"}
    assert (tmp_path / "Tiny" / "Tiny.mat").read_bytes() == mine


def test_a_wrong_file_of_the_users_is_neither_accepted_nor_replaced(server, tmp_path):
    path = tmp_path / "Tiny" / "Tiny.mat"
    path.parent.mkdir()
    path.write_bytes(mat(tiny=CUBE[1:]))
    before = path.read_bytes()
    with pytest.raises(DownloadError, match=r"Tiny\.mat is not the file that Tiny needs, the shape .*: move it away"):
        download("Tiny", tmp_path)
    assert path.read_bytes() == before
    assert server.asked == []


def test_sums_are_recorded_beside_earlier_ones(server, tmp_path):
    (tmp_path / "Tiny").mkdir()
    other = f"{'a' * 64}  mine.mat"
    (tmp_path / "Tiny" / "SHA256SUMS").write_text(f"{other}\n{'b' * 64}  Tiny_gt.mat\n")
    download("Tiny", tmp_path)
    expected = {f"{hashlib.sha256(body).hexdigest()}  {name}" for name, body in server.files.items()}
    lines = (tmp_path / "Tiny" / "SHA256SUMS").read_text().splitlines()
    assert set(lines) == {other, *expected}
    assert len(lines) == 5


def test_without_a_network_one_sentence_names_every_missing_file_and_its_address(server, tmp_path):
    (tmp_path / "Tiny").mkdir()
    (tmp_path / "Tiny" / "Tiny_gt.mat").write_bytes(server.files["Tiny_gt.mat"])
    urls = catalogue.SCENES["Tiny"].urls
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError) as caught:
        download("Tiny", tmp_path)
    message = str(caught.value)
    assert f"there is no connection to 127.0.0.1:{server.server_port} (ConnectionError)" in message
    assert all(f"{name} (from {urls[name]})" in message for name in ("Tiny.mat", "TRAIN_GT.mat", "TEST_GT.mat"))
    assert "Tiny_gt.mat" not in message
    assert str(tmp_path / "Tiny") in message
    assert "\n" not in message


def test_a_file_gone_from_the_server_is_said_with_its_status(server, tmp_path):
    del server.files["Tiny_gt.mat"]
    with pytest.raises(DownloadError, match=r"answers 404 for Tiny_gt\.mat: put Tiny_gt\.mat \(from http"):
        download("Tiny", tmp_path)
    assert names(tmp_path / "Tiny") == {"Tiny.mat", "SHA256SUMS"}


@pytest.mark.usefixtures("server")
def test_what_needs_a_form_is_said_after_the_rest_was_fetched(tmp_path, monkeypatch):
    spec = catalogue.SCENES["Tiny"]
    masks_only = {name: spec.urls[name] for name in catalogue.MASK_KEYS}
    monkeypatch.setitem(catalogue.SCENES, "Tiny", dataclasses.replace(spec, urls=masks_only))
    with pytest.raises(DownloadError, match=r"by hand: put Tiny\.mat, Tiny_gt\.mat into .*need the form at"):
        download("Tiny", tmp_path)
    assert names(tmp_path / "Tiny") == {*catalogue.MASK_KEYS, "SHA256SUMS"}


@pytest.mark.parametrize("spec", [spec for spec in catalogue.SCENES.values() if not spec.urls and spec.cube_file])
def test_a_scene_behind_a_form_names_its_files_and_the_place_to_ask(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(requests, "get", lambda *_, **__: pytest.fail("nothing may be asked of any server"))
    with pytest.raises(DownloadError) as caught:
        download(spec.name, tmp_path)
    assert all(part in str(caught.value) for part in (spec.cube_file, spec.gt_file, spec.source, "https://"))
    assert str(caught.value).count(spec.cube_file) == 1


def test_what_the_user_brought_by_hand_completes_a_scene(tmp_path):
    spec = catalogue.SCENES["WHU-Hi-LongKou"]
    paths = [tmp_path / spec.folder / file for file in (spec.cube_file, spec.gt_file)]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(b"by hand")
    assert download(spec.name, tmp_path) == paths


def test_the_simulated_scene_needs_no_download(tmp_path):
    assert download("Simulate_database", tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_scene_is_an_error_that_names_the_choices(tmp_path):
    with pytest.raises(ValueError, match="choose from IndianPines"):
        download("Atlantis", tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (spec.name, file)
        for spec in catalogue.SCENES.values()
        for file in (spec.cube_file, spec.gt_file, *(catalogue.MASK_KEYS if spec.masks else ()))
        if file in spec.urls
    ],
)
def test_the_real_files_are_what_the_catalogue_says(name, file):
    path = Path(os.environ.get("MIM_DATA", "Datasets"), name, file)
    if not path.exists():
        pytest.skip(f"{path} is not there")
    check(catalogue.SCENES[name], path)
