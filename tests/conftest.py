"""What several test files need: the folder of the real scenes, and the tiny scene."""

import logging
import os
from pathlib import Path

import pytest
from tiny import TinyScene

from reporting.figures import style
from utils import share_cores

share_cores()  # as main.py does, and before a test imports PyTorch
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _logging_as_before():
    """Undo the command line's logging, whose stream ends with the test."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch):
    """Quick pictures of few dots; the tests of the pictures themselves override this."""
    monkeypatch.setattr(style, "DPI", 40)
    monkeypatch.setitem(style.STYLE, "pdf.fonttype", 3)  # made in a fraction of the time


@pytest.fixture(scope="session")
def real_data():
    """The folder of the real scenes; a test that opens a file there skips if the file is absent."""
    return ROOT / os.environ.get("MIM_DATA", "Datasets")


@pytest.fixture
def tiny_scene(tmp_path, monkeypatch):
    """A TinyScene in a new folder."""
    return TinyScene(tmp_path / "data", monkeypatch)
