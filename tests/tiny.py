"""The tiny scene of the tests, in fields of three classes and in two sizes: to be read, and to be trained on."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from datasets import Scene, load_scene
from scenes import catalogue
from splits.fixed_masks import load_split
from splits.split import Split

CLASS_NAMES = ("Land", "Water", "Roof")


@dataclass
class Arrays:
    """A cube (H, W, n_bands) uint16, its ground truth (H, W) uint8, 0..3, and fixed masks that divide it."""

    cube: np.ndarray
    gt: np.ndarray
    train: np.ndarray

    @property
    def test(self) -> np.ndarray:
        return self.gt - self.train


def small() -> Arrays:
    """Make the scene to be read, (9, 12, 4): the unlabelled and the three classes side by side, the top rows train."""
    gt = np.repeat([0, 1, 2, 3], 3)[None].repeat(9, 0).astype(np.uint8)
    cube = (1000.0 * gt[..., None] + np.random.default_rng(0).integers(1, 500, (9, 12, 4))).astype(np.uint16)
    return Arrays(cube, gt, np.where(np.arange(9)[:, None] < 3, gt, 0).astype(np.uint8))


def large() -> Arrays:
    """Make the scene to be trained on, (14, 17, 6): three fields in an unlabelled border; scattered pixels train."""
    rng = np.random.default_rng(0)
    gt = np.zeros((14, 17), dtype=np.uint8)
    gt[1:13, 1:6], gt[1:13, 6:11], gt[1:13, 11:16] = 1, 2, 3
    spectra = rng.normal(size=(4, 6))
    cube = (500 + 100 * spectra[gt] + 40 * rng.normal(size=(14, 17, 6))).astype(np.uint16)
    return Arrays(cube, gt, np.where(rng.random(gt.shape) < 0.3, gt, 0))


CUBE, GT = small().cube, small().gt
DESCRIPTION = 'cube = "cube.npy"\ngt = "gt.npy"\nclass_names = ["Land", "Water", "Roof"]\n'


def write_described(home: Path, arrays: Arrays, *, masks: bool = True) -> Path:
    """Write a scene and its scene.toml into a new folder, and give the folder."""
    home.mkdir(parents=True)
    np.save(home / "cube.npy", arrays.cube)
    np.save(home / "gt.npy", arrays.gt)
    if masks:
        scipy.io.savemat(home / "TRAIN_GT.mat", {"TR": arrays.train})
        scipy.io.savemat(home / "TEST_GT.mat", {"TE": arrays.test})
    (home / "scene.toml").write_text(DESCRIPTION)
    return home


@dataclass
class TinyScene:
    """The scene as Tiny, with its fixed masks, in the catalogue and in `folder` while the test runs."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    arrays: Arrays = field(default_factory=small)

    def __post_init__(self):
        self.cube, self.gt = self.arrays.cube, self.arrays.gt
        self.train, self.test = self.arrays.train, self.arrays.test
        self.spec = replace(
            catalogue.SCENES["PaviaU"],
            name="Tiny",
            folder="Tiny",
            shape=self.cube.shape,
            cube_file="Tiny.mat",
            cube_key="tiny",
            gt_file="Tiny_gt.mat",
            gt_key="tiny_gt",
            class_names=CLASS_NAMES,
            class_counts=tuple(np.bincount(self.gt.ravel())[1:].tolist()),
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
