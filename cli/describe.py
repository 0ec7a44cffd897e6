"""Describe what a scene or a file holds: shapes, ranges, bands, place, classes; and suggest a scene.toml for it."""

from pathlib import Path

import numpy as np

from cli.suggest import suggest
from datasets import load_scene
from limits import regular_file
from scenes.bands import named
from scenes.catalogue import find_spec
from scenes.georeference import crs_of, transform_of
from scenes.matfiles import images_among, open_arrays
from scenes.rasters import ARRAYS, ERDAS, GEOTIFF, PICTURES, PRODUCTS, Raster, open_raster
from scenes.scene_toml import FILE
from scenes.spec import MASK_KEYS, SceneSpec
from scenes.survey import survey
from scenes.vectors import VECTORS, class_values, read_layers
from splits.fixed_masks import fixed_masks
from splits.split import count_classes
from utils import InputError

_IMAGES = (*ARRAYS, *GEOTIFF, *PICTURES, *PRODUCTS, *ERDAS, ".hdr")


def describe(name: str, folder: Path) -> list[str]:
    """Describe a scene or a file.

    Args:
        name: a scene of the catalogue or with a scene.toml, a path to a scene.toml, a file of any format, or a folder.
        folder: data root.
    Returns:
        Lines to show. For a bare file the last ones, from "# scene.toml" on, are a description that can be saved.
    Raises:
        InputError: no such scene or file, or one that cannot be read.
    """
    path = Path(name)
    if path.exists() and not path.is_dir():
        regular_file(path)
    if path.suffix.lower() in _IMAGES and not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_file() and path.suffix.lower() in VECTORS:
        return _describe_polygons(path)
    if path.is_file() and path.suffix.lower() != ".toml":
        return _describe_file(path)
    if path.is_dir() and not (path / FILE).exists():
        return _describe_folder(path)
    spec = find_spec(name, folder)
    home = Path(folder) / spec.folder
    lines = [f"{spec.name}: {spec.source}"]
    for file, key, title in ((spec.cube_file, spec.cube_key, "cube"), (spec.gt_file, spec.gt_key, "ground truth")):
        if file is None:
            lines.append(f"{title}: no file")
        elif not (home / file).exists():
            lines.append(f"{title}: {home / file} is missing")
        else:
            lines += ["", f"{title}: {home / file}", *_image_lines(open_raster(home / file, key), spec)]
    masks = fixed_masks(spec, folder)
    lines += ["", f"fixed masks: {', '.join(map(str, masks)) if masks else 'none'}"]
    return lines + _scene_lines(spec, name, folder)


def _scene_lines(spec: SceneSpec, name: str, folder: Path) -> list[str]:
    """List the classes with their counts as a run sees them, or say what keeps a run from reading the scene."""
    try:
        scene = load_scene(name, folder, need_cube=False)
    except InputError as error:
        return ["", f"A run could not read it: {error}"]
    assert scene.spec.shape is not None
    bands = "bands" if scene.bands is not None else "bands of the file"
    lines = [f"as read: {' x '.join(map(str, scene.spec.shape))} (rows, columns, {bands})"]
    if scene.valid is not None:
        lines.append(f"pixels without data: {int((~scene.valid).sum())}")
    counts = None if scene.gt is None else count_classes(scene.gt, spec.n_classes)
    lines += ["", f"{spec.n_classes} classes" + ("" if counts is None else f", {int(counts.sum()):,} labelled pixels")]
    for i, title in enumerate(spec.class_names):
        lines.append(f"{i + 1:4d}  {title}" + ("" if counts is None else f"  {int(counts[i]):,}"))
    return lines


def _image_lines(raster: Raster, spec: SceneSpec | None = None) -> list[str]:
    height, width, n_bands = raster.shape
    product = [f"  product       {raster.product}"] if raster.product else []
    values = survey(raster, noise=True)
    size = height * width * n_bands * raster.dtype.itemsize / 2**20
    lines = [
        *product,
        f"  shape         {height} x {width} x {n_bands} (rows, columns, bands), {raster.dtype}, {size:.1f} MiB",
    ]
    if np.isfinite(values.low).any():
        lines.append(f"  range         {np.nanmin(values.low):g} to {np.nanmax(values.high):g}")
    if raster.dtype.kind == "f":
        lines.append(f"  not a number  {values.n_nan} NaN, {values.n_infinite} infinite")
    if n_bands > 1:
        constant = np.flatnonzero((values.low == values.high) | np.isnan(values.low))
        shown = ", ".join(map(str, constant[:20])) + (", ..." if len(constant) > 20 else "")
        lines.append(f"  constant      {f'{len(constant)} bands (from 0): {shown}' if len(constant) else 'no band'}")
        if raster.bad_bands:
            lines.append(f"  marked bad    {named(raster.bad_bands)}, which a run leaves out")
        if noisy := values.noisy():
            lines.append(f"  noisy         {named(noisy)}, far more than their neighbours; drop_bands leaves them out")
    if raster.scaled:
        lines.append(f"  scale         the file's scale and offset are applied: {_scale(raster)}")
    wavelengths = (spec.wavelengths if spec else None) or raster.wavelengths
    if wavelengths and n_bands > 1:
        lines.append(f"  wavelengths   {min(wavelengths):g} to {max(wavelengths):g} nm")
    count = f", {values.n_nan if raster.nodata != raster.nodata else values.n_nodata} values"
    lines.append(f"  no data       {'no value given' if raster.nodata is None else f'{raster.nodata:g}{count}'}")
    if raster.ortho is not None:
        rows, columns = raster.ortho.rows.shape
        lines.append(f"  place         as the sensor saw it; a map is placed on a grid of {rows} x {columns}")
    transform, crs = transform_of(raster.georeference), crs_of(raster.georeference)
    if raster.georeference is not None:
        lines.append(f"  place         transform {transform}, {(crs or 'no coordinate system')[:60]}")
    else:
        lines.append("  place         none in the file")
    if values.counts and min(values.counts) >= -1 and max(values.counts) > 0:
        shown = ", ".join(f"{value}: {number:,}" for value, number in sorted(values.counts.items()))
        lines.append(f"  pixels by value  {shown}")
    return lines


def _scale(raster: Raster) -> str:
    """Give the scale and the offset of the first band, and whether the others' are the same."""
    scale, offset = (each or (default,) for each, default in ((raster.scale, 1.0), (raster.offset, 0.0)))
    return f"value x {scale[0]:g} + {offset[0]:g}" + (
        "" if len({*scale}) == len({*offset}) == 1 else " in the first band"
    )


def _images(path: Path) -> list[tuple[str | None, Raster]]:
    """Open the images in a file, with the variable's name if there can be several; InputError if there is none."""
    found = open_arrays(path) if path.suffix.lower() in (".mat", ".npz") else {}
    images = {name: found[name].read() for name in images_among(found)}
    return [(name, Raster.of(array, path, name)) for name, array in images.items()] or [(None, open_raster(path))]


def _describe_file(path: Path) -> list[str]:
    lines, images = [], [(path, *image) for image in _images(path)]
    for _, key, raster in images:
        lines += [f"{path}{f', {key}' if key else ''}", *_image_lines(raster), ""]
    return lines + suggest(path.parent, images)


def _describe_polygons(path: Path) -> list[str]:
    lines = []
    for layer in read_layers(path):
        lines.append(
            f"{path}, layer {layer.name}: {len(layer.shapes)} polygons, {(layer.crs or 'no coordinate system')[:60]}"
        )
        for name, values in layer.attributes.items():
            found = class_values(values)
            lines.append(f"  {name}: {len(found)} values, {', '.join(found[:20])}{', ...' if found[20:] else ''}")
    return [
        *lines,
        "",
        "In a scene.toml `gt` names this file, `gt_key` the attribute of the classes, and `class_names` its values.",
    ]


def _describe_folder(home: Path) -> list[str]:
    files = _files(home)
    polygons = [path for path in sorted(home.iterdir()) if path.suffix.lower() in VECTORS and path.suffix != ".json"]
    if not files:
        raise InputError(f"{home} holds no {FILE} and no file of a format that is read ({', '.join(_IMAGES)})")
    lines, images = [], []
    for path in files:
        try:
            found = _images(path)
        except InputError as error:
            lines += [str(error), ""]
            continue
        images += [(path, *image) for image in found]
        for key, raster in found:
            lines += [f"{path}{f', {key}' if key else ''}", *_image_lines(raster), ""]
    for path in polygons:
        try:
            lines += _describe_polygons(path)[:-1]
        except InputError as error:
            lines += [str(error), ""]
    return lines + suggest(home, images, polygons)


def _files(home: Path) -> list[Path]:
    return [path for path in sorted(home.iterdir()) if path.suffix.lower() in _IMAGES and path.name not in MASK_KEYS]
