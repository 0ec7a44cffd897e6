"""Scenes and their fixed masks: read, check, and say what had to be mended."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scenes.catalogue import SceneSpec
from scenes.cubes import complete, fit_labels, read_cube, read_gt
from scenes.rasters import ARRAYS, Raster, open_raster
from scenes.scene_toml import find_spec
from scenes.simulate import simulate
from utils import InputError

SIMULATED = "Simulated"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scene:
    """A scene as read.

    Attributes:
        spec: its facts.
        cube: (H, W, n_bands) float32, or None where not asked for.
        gt: (H, W) int64, 0 = unlabelled, 1..K, or None where the file is absent.
        valid: which pixels have data, (H, W) bool; None where all have, or the cube was not asked for.
        raster: the cube's file, which knows its place; None where the format holds arrays alone.
        notes: what was mended in reading, one sentence each.
    """

    spec: SceneSpec
    cube: np.ndarray | None
    gt: np.ndarray | None
    valid: np.ndarray | None = None
    raster: Raster | None = None
    notes: tuple[str, ...] = ()


def load_scene(name: str, folder: Path, *, need_cube: bool = True, need_gt: bool = False) -> Scene:
    """Read a scene's cube and ground truth and check them against the catalogue.

    Args:
        name: scene name or alias, without regard to case, "-" and "_".
        folder: data root; the files are in its subfolder for the scene.
        need_cube: read the cube; otherwise it is None.
        need_gt: a missing ground truth is an error; otherwise it is None.
    Raises:
        InputError: an unknown name (the choices are named), a missing, unreadable or unfit file, NaN in the cube.
    """
    spec = find_spec(name, folder)
    if spec.name == SIMULATED:
        cube, gt = simulate(0, shape=spec.shape, n_classes=spec.n_classes)
        return Scene(spec, cube.astype(np.float32) if need_cube else None, gt.astype(np.int64))
    home = Path(folder) / spec.folder
    cube = gt = valid = raster = None
    notes: list[str] = []
    cube_file = home / spec.cube_file
    gt_file = None if spec.gt_file is None else home / spec.gt_file
    if gt_file is None and need_gt:
        raise InputError(f"{spec.described} names no ground truth; add `gt`, or give --train_set and --test_set")
    if gt_file is not None and (need_gt or spec.described or gt_file.is_file()):
        gt, gt_raster = read_gt(_there(gt_file, spec), spec)
    as_arrays = cube_file.suffix.lower() in ARRAYS
    if need_cube or (spec.shape is None and as_arrays):
        cube, valid, raster = read_cube(_there(cube_file, spec), spec, None if gt is None else gt.shape, notes)
        spec = complete(spec, cube.shape, raster)
    elif spec.shape is None or (gt is not None and cube_file.is_file() and not as_arrays):
        raster = open_raster(_there(cube_file, spec))  # for its shape and its place alone
        spec = complete(spec, raster.shape, raster)
    if gt is not None:
        gt = fit_labels(gt, gt_raster, raster, gt_file, spec, notes)
        gt = gt if valid is None else np.where(valid, gt, 0)
    return Scene(spec, cube if need_cube else None, gt, valid, raster, tuple(notes))


def _there(path: Path, spec: SceneSpec) -> Path:
    if not path.is_file():
        raise InputError(where_from(spec, path))
    return path


def has_cube(name: str, folder: Path) -> bool:
    """Whether a scene's cube is there; InputError for an unknown scene."""
    spec = find_spec(name, folder)
    return spec.cube_file is None or (Path(folder) / spec.folder / spec.cube_file).is_file()


def where_from(spec: SceneSpec, path: Path) -> str:
    if spec.described is not None:
        return f"{path} is missing, which {spec.described} names; put it there or mend the entry"
    how = (
        f"`python main.py --download {spec.name}` fetches it"
        if path.name in spec.urls
        else f"its source is {spec.source}"
    )
    return f"{path} is missing: {how}; or copy it there from elsewhere"
