"""What several test files need: the folder of the real scenes, and a scene small enough to be written for each test."""

import logging
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from datasets import Scene, load_scene
from reporting.figures import style
from scenes import catalogue
from splits.fixed_masks import load_split
from splits.split import Split

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as main.py does, and before a test imports PyTorch
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
    """The folder of the real scenes; a test that opens a file there skips where the file is absent."""
    return ROOT / os.environ.get("MIM_DATA", "Datasets")


@dataclass
class TinyScene:
    """A scene Tiny of three classes with its fixed masks, in the catalogue and in `folder` while the test runs."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    cube: np.ndarray = field(init=False)  # (9, 12, 4) uint16
    gt: np.ndarray = field(init=False)  # (9, 12) uint8, 0..3
    train: np.ndarray = field(init=False)
    test: np.ndarray = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(0)
        self.gt = np.repeat([0, 1, 2, 3], 3)[None].repeat(9, 0).astype(np.uint8)
        self.cube = (1000.0 * self.gt[..., None] + rng.integers(1, 500, (9, 12, 4))).astype(np.uint16)
        self.train = np.where(np.arange(9)[:, None] < 3, self.gt, 0).astype(np.uint8)
        self.test = self.gt - self.train
        self.spec = replace(
            catalogue.SCENES["PaviaU"],
            name="Tiny",
            folder="Tiny",
            shape=self.cube.shape,
            cube_file="Tiny.mat",
            cube_key="tiny",
            gt_file="Tiny_gt.mat",
            gt_key="tiny_gt",
            class_names=("Land", "Water", "Roof"),
            class_counts=(27, 27, 27),
            palette=("#1f77b4", "#e13c2d", "#0f960f"),
            rgb_bands=(2, 1, 0),
            urls={},
            sums={},
            masks=None,
        )
        self.change()
        (self.folder / "Tiny").mkdir(parents=True)
        self.write("Tiny.mat", tiny=self.cube)
        self.write("Tiny_gt.mat", tiny_gt=self.gt)
        self.write("TRAIN_GT.mat", TR=self.train)
        self.write("TEST_GT.mat", TE=self.test)

    def change(self, **facts) -> None:
        """Change facts in the catalogue."""
        self.spec = replace(self.spec, **facts)
        self.monkeypatch.setitem(catalogue.SCENES, "Tiny", self.spec)

    def write(self, file: str, **arrays) -> Path:
        """Write a .mat file of the scene."""
        scipy.io.savemat(self.folder / "Tiny" / file, arrays)
        return self.folder / "Tiny" / file

    def load(self, **options) -> Scene:
        """Read the scene."""
        return load_scene("tiny", self.folder, **options)

    def split(self) -> Split:
        """Read the fixed masks."""
        home = self.folder / "Tiny"
        return load_split(home / "TRAIN_GT.mat", home / "TEST_GT.mat", self.load(need_cube=False))


@pytest.fixture
def tiny_scene(tmp_path, monkeypatch):
    """A TinyScene in a folder of its own."""
    return TinyScene(tmp_path / "data", monkeypatch)
