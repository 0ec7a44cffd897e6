"""Scenes: their files found, read and checked."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from limits import regular_file
from scenes.bands import parse_bands
from scenes.catalogue import find_spec
from scenes.cubes import complete, read_cube
from scenes.labels import fit_labels, read_gt
from scenes.rasters import ARRAYS, PRODUCTS, Raster, open_raster, says_no_axes
from scenes.spec import SceneSpec
from scenes.vectors import VECTORS, burn_polygons
from utils import InputError


@dataclass(frozen=True)
class Scene:
    """A scene as read.

    Attributes:
        spec: its facts.
        cube: (H, W, n_bands) float32, or None if not asked for.
        gt: (H, W) int64, 0 = unlabelled, 1..K, or None if the file is absent.
        valid: which pixels have data, (H, W) bool; None if all have, or the cube was not asked for.
        raster: the cube's file with its georeference; None if the format holds arrays alone.
        notes: what was corrected in reading, one sentence each.
        bands: the file's bands that are used, in this order, from 0; None if the cube was not asked for.
        n_in_file: bands of the file; None likewise.
        nodata: the value of pixels without data; None if there is none, or the cube was not asked for.
    """

    spec: SceneSpec
    cube: np.ndarray | None
    gt: np.ndarray | None
    valid: np.ndarray | None = None
    raster: Raster | None = None
    notes: tuple[str, ...] = ()
    bands: tuple[int, ...] | None = None
    n_in_file: int | None = None
    nodata: float | None = None


def load_scene(
    name: str, folder: Path, *, need_cube: bool = True, need_gt: bool = False, drop_bands: str = ""
) -> Scene:
    """Read a scene's cube and ground truth and check them against the catalogue.

    Args:
        name: scene name or alias, without regard to case, "-" and "_".
        folder: data root; the files are in its subfolder for the scene.
        need_cube: read the cube; otherwise it is None.
        need_gt: a missing ground truth is an error; otherwise it is None.
        drop_bands: bands of the file, from 0, to leave out beside those that the scene's description names, such as
            "104-108,150".
    Raises:
        InputError: an unknown name (the choices are listed), a missing or unreadable file, one that does not fit, NaN
            in the cube.
    """
    spec = find_spec(name, folder)
    more = parse_bands(drop_bands.split(","), "drop_bands") if drop_bands.strip() else ()
    spec = replace(spec, drop_bands=tuple(sorted({*spec.drop_bands, *more})))
    if spec.cube_file is None:
        return _simulated(spec, need_cube)
    _check_keys(spec)
    home = Path(folder) / spec.folder
    cube = gt = gt_raster = raster = None
    notes: list[str] = []
    cube_file = home / spec.cube_file
    gt_file = None if spec.gt_file is None else home / spec.gt_file
    if gt_file is None and need_gt:
        raise InputError(f"{spec.described} names no ground truth; add `gt`, or give a training and a test mask")
    polygons = gt_file is not None and gt_file.suffix.lower() in VECTORS
    if gt_file is not None and not polygons and (need_gt or spec.described or gt_file.exists()):
        gt, gt_raster = read_gt(_existing(gt_file, spec), spec)
    as_arrays = cube_file.suffix.lower() in ARRAYS
    fits_labels = (gt is not None or polygons) and cube_file.is_file()
    if not (need_cube or as_arrays) and (spec.shape is None or fits_labels):
        key = spec.cube_key if cube_file.suffix.lower() in PRODUCTS else None
        raster = open_raster(_existing(cube_file, spec), key)  # for its shape and its georeference alone
    no_axes = as_arrays or (raster is not None and says_no_axes(raster))
    if need_cube or (spec.shape is None and no_axes):
        cube = read_cube(_existing(cube_file, spec), spec, None if gt is None else gt.shape, notes)
        raster = cube.raster
        spec = complete(spec, (*cube.values.shape[:2], cube.n_in_file), raster, cube.bands)
    elif raster is not None:
        spec = complete(spec, raster.shape, raster)
    if polygons and gt_file is not None:
        gt = burn_polygons(_existing(gt_file, spec), spec, raster, notes)
    if gt is not None and gt_file is not None:
        gt, spec = fit_labels(gt, gt_raster, raster, gt_file, spec, notes)
        gt = gt if cube is None or cube.valid is None else np.where(cube.valid, gt, 0)
    if cube is None:
        return Scene(spec, None, gt, None, raster, tuple(notes))
    values, bands = cube.values if need_cube else None, tuple(cube.bands.tolist())
    return Scene(spec, values, gt, cube.valid, raster, tuple(notes), bands, cube.n_in_file, cube.nodata)


def _check_keys(spec: SceneSpec) -> None:
    """Raise InputError if a scene's description names a variable in a file that has none."""
    for name, file, key, more in (
        ("cube_key", spec.cube_file, spec.cube_key, ()),
        ("gt_key", spec.gt_file, spec.gt_key, VECTORS),
    ):
        if spec.described and file and key and Path(file).suffix.lower() not in (*ARRAYS, *PRODUCTS, *more):
            raise InputError(f"{spec.described}: {name!r} names a variable, and {file} has none; leave it out")


def _simulated(spec: SceneSpec, need_cube: bool) -> Scene:
    from scenes.simulate import simulate  # here, because only this scene needs it and SciPy

    assert spec.shape is not None
    cube, gt = simulate(0, shape=spec.shape, n_classes=spec.n_classes)
    n_bands = spec.shape[2]
    if spec.drop_bands and max(spec.drop_bands) >= n_bands:
        raise InputError(f"drop_bands counts from 0, and {spec.name} has {n_bands} bands")
    bands = np.setdiff1d(np.arange(n_bands), spec.drop_bands)
    if not len(bands):
        raise InputError("drop_bands leaves no band")
    spec = complete(spec, spec.shape, None, bands)
    values = cube[:, :, bands].astype(np.float32) if need_cube else None
    return Scene(spec, values, gt.astype(np.int64), bands=tuple(bands.tolist()), n_in_file=n_bands)


def _existing(path: Path, spec: SceneSpec) -> Path:
    if not path.exists():
        raise InputError(where_from(spec, path))
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file in it")
    return regular_file(path)


def has_cube(name: str, folder: Path) -> bool:
    """Whether the file of a scene's cube exists; InputError for an unknown scene."""
    spec = find_spec(name, folder)
    return spec.cube_file is None or (Path(folder) / spec.folder / spec.cube_file).is_file()


def where_from(spec: SceneSpec, path: Path) -> str:
    """Give a sentence on where a missing file of a scene can be obtained."""
    if spec.described is not None:
        return f"{path} is missing, which {spec.described} names; put it there or correct the entry"
    how = (
        f"`python main.py --download {spec.name}` fetches it"
        if path.name in spec.urls
        else f"its source is {spec.source}"
    )
    return f"{path} is missing: {how}; or copy it there from elsewhere"
