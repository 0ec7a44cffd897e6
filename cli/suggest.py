"""Suggest a scene.toml for a cube and the label map that goes with it."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scenes.catalogue import find_scene
from scenes.cubes import find_orders
from scenes.labels import USUAL_UNLABELLED
from scenes.raster import Raster
from scenes.rasters import ARRAYS
from scenes.scene_toml import FILE
from scenes.spec import choose_rgb
from scenes.survey import survey
from scenes.vectors import choose_attribute, class_values
from utils import InputError

Image = tuple[Path, Any, Raster]  # file, variable or None, and what it holds


def suggest(home: Path, images: list[Image], polygons: Sequence[Path] = ()) -> list[str]:
    """Suggest a scene.toml of the largest cube and the label map of its size, or else the polygons on it.

    Args:
        home: folder of the files.
        images: those that are described.
        polygons: files of polygons in the folder.
    Returns:
        Lines that can be saved as scene.toml, with which a run can train if there is a label map.
    """
    cubes = [image for image in images if image[2].shape[2] > 1]
    labels = [image for image in images if image[2].shape[2] == 1]
    if not cubes:
        return ["There is no cube here, so that no scene.toml can be suggested; describe the folder of both files."]
    planes = {image[2].shape[:2] for image in labels}

    # a picture of three or four bands is a preview, if there is anything else
    shapes: list[tuple[int, ...]] = [image[2].shape for image in cubes]
    ranks = [(shape[2] > 4, shape[:2] in planes, math.prod(shape)) for shape in shapes]
    path, key, raster = cubes[ranks.index(max(ranks))]
    truth, counts, n_bands = _label_map(labels, path, raster)
    lines = ["# scene.toml", f"name = {_quoted(_new_name(home))}", f"cube = {_quoted(path.name)}"]
    lines += [f"cube_key = {_quoted(key)}"] if key else []
    lines += _polygon_lines(polygons) if truth is None and polygons else _label_lines(truth, counts)
    lines += _band_lines(raster, n_bands)
    lines.append(f"rgb_bands = {list(choose_rgb(n_bands, raster.wavelengths))}  # from 0: red, green, blue")
    if raster.wavelengths is None:
        lines.append("# wavelengths = [...]  # of the bands, in nm")
    if raster.nodata is None:
        lines.append("# nodata = 0  # the value of pixels without data, if they have one")
    return [*lines, f"# Save these lines as {home / FILE}, then: python main.py --dataset {home}"]


def _label_map(labels: list[Image], path: Path, raster: Raster) -> tuple[Image | None, dict[int, int], int]:
    """Find the label map of a cube: it, its pixels by value, and the number of bands as the label map lets it be."""
    for image in labels:
        finer = [image[2].shape[axis] / raster.shape[axis] for axis in (0, 1)]
        finer = min(finer) > 1 and all(factor.is_integer() for factor in finer)  # a run brings it to the cube's grid
        orders = [(0, 1, 2)] if finer else find_orders(raster.shape, image[2].shape[:2])
        counts = survey(image[2]).counts if orders else None
        if counts and image[2].nodata is not None:
            counts = {value: number for value, number in counts.items() if value != image[2].nodata}
        if counts and len(counts) > 1 and _certain(orders, path):
            return image, counts, raster.shape[orders[0][2]]
    return None, {}, raster.shape[2]


def _label_lines(truth: Image | None, counts: dict[int, int]) -> list[str]:
    """Name the label map, its classes, and which of its values are none."""
    if truth is None:
        what = "# no label map of the cube's size, with at least two values, is here (describe its folder), or add:"
        return [what, '# gt = "FILE"', '# class_names = ["...", "..."]']
    path, key, raster = truth
    unlabelled = sorted({*counts} & {*USUAL_UNLABELLED}) or [0]
    used = sorted({*counts} - {*unlabelled})
    if len(used) < 2:
        return [
            f"# {path.name} has one class only; to train, give a label map with at least two",
            f"# gt = {_quoted(path.name)}",
        ]
    lines = [f"gt = {_quoted(path.name)}", *([f"gt_key = {_quoted(key)}"] if key else [])]
    if unlabelled != [0]:
        lines.append(
            f"unlabelled = {unlabelled[0] if len(unlabelled) == 1 else unlabelled}  # the value of unlabelled pixels"
        )
        if 0 in used:
            lines.append(f"# unlabelled = {[0, *unlabelled]}  # instead, if 0 is no class")
    elif 0 in counts and raster.nodata not in (None, 0):
        lines.append("# if 0 is a class too, name it first: its pixels are unlabelled if there are no more names")
    known, plain = raster.class_names or (), used[0] >= 1 and used[-1] <= max(len(raster.class_names or ()), len(used))
    values = range(1, max(len(known), used[-1]) + 1) if plain else used
    names = {value: known[value - 1] if plain and value <= len(known) else f"class {value}" for value in values}
    lines.append(f"class_names = [{', '.join(map(_quoted, names.values()))}]")
    if plain and raster.palette and len(raster.palette) == len(names) and len({*raster.palette}) == len(names):
        lines.append(f"palette = [{', '.join(map(_quoted, raster.palette))}]")
    if single := [names[value] for value in used if counts[value] == 1]:
        lines.append(f"exclude_classes = [{', '.join(map(_quoted, single))}]  # one pixel cannot both train and test")
    return lines


def _polygon_lines(polygons: Sequence[Path]) -> list[str]:
    """Name the first file of polygons with an attribute that can hold the classes, and the attribute's values."""
    for path in polygons:
        try:
            layer, name = choose_attribute(path, None)
        except InputError:
            continue
        names = class_values(layer.attributes[name])
        if all(value.lstrip("-").isdecimal() for value in names):
            names = [f"class {value}" for value in names]
        lines = [f"gt = {_quoted(path.name)}", f"gt_key = {_quoted(name)}"]
        return [*lines, f"class_names = [{', '.join(map(_quoted, names))}]"]
    listed = ", ".join(path.name for path in polygons)
    what = f"# the classes are in none, or in several, of the attributes of {listed}; add:"
    return [what, '# gt = "FILE"', '# gt_key = "ATTRIBUTE"', '# class_names = ["...", "..."]']


def _band_lines(raster: Raster, n_bands: int) -> list[str]:
    """Leave out bands in which single pixels are NaN, with which a run cannot train."""
    if n_bands != raster.shape[2]:
        return []
    broken = survey(raster).broken
    return [f"drop_bands = {broken}  # some pixels are NaN or infinite there"] if 0 < len(broken) < n_bands else []


def _certain(orders: list, path: Path) -> bool:
    """Whether a run would take the axes as one of these orders says."""
    return orders[0] == (0, 1, 2) or (len(orders) == 1 and path.suffix.lower() in ARRAYS)


def _new_name(home: Path) -> str:
    """Name the scene after its folder, with the letters that a name may have, and unlike any of the catalogue's."""
    name = re.sub(r"[^\w .+-]", "_", home.resolve().name).lstrip(" .+-") or "scene"
    try:
        return f"{find_scene(name).name}-own"
    except InputError:
        return name[:100]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
