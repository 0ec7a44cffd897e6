"""Ground truth as polygons: GeoPackage, shapefile and GeoJSON, burnt into the grid of the cube."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scenes.georeference import crs_of, transform_of
from scenes.on_grid import UNLABELLED
from scenes.raster import Raster
from scenes.spec import SceneSpec, note
from utils import InputError, did_you_mean, no_such_file

VECTORS = (".gpkg", ".shp", ".geojson", ".json")
_NEEDED = "polygons need the packages pyogrio, shapely and rasterio; `pip install '.[geo]'` adds them"
_MOST_VALUES = 1000  # different ones of an attribute of classes


@dataclass(frozen=True)
class Layer:
    """A layer of polygons.

    Attributes:
        name: its name.
        crs: its coordinate system as text, or None.
        attributes: values of each attribute, by name, one per polygon.
        shapes: the polygons as WKB.
    """

    name: str
    crs: str | None
    attributes: dict[str, np.ndarray]
    shapes: np.ndarray


def read_layers(path: Path) -> list[Layer]:
    """Read all layers of a file; InputError if it cannot be read or the package for it is missing."""
    if not path.is_file():
        raise no_such_file(path)
    try:
        from pyogrio import list_layers
        from pyogrio.errors import DataLayerError, DataSourceError
        from pyogrio.raw import read
    except ImportError as error:
        raise InputError(f"{path}: {_NEEDED}") from error
    try:
        layers = []
        for name, kind in list_layers(path):
            if kind is None:  # a table without geometry
                continue
            facts, _, shapes, columns = read(path, layer=name)
            attributes = dict(zip(map(str, facts["fields"]), columns, strict=True))
            layers.append(Layer(str(name), facts["crs"], attributes, shapes))
    except (DataSourceError, DataLayerError, ValueError) as error:
        reason = str(error).splitlines()[0][:160]
        raise InputError(f"{path} is not a readable file of polygons ({reason}); fetch or copy it again") from error
    if not layers:
        raise InputError(f"{path} has no layer of polygons")
    return layers


def choose_attribute(path: Path, key: str | None) -> tuple[Layer, str]:
    """Find the attribute that holds the classes: "attribute", or "layer.attribute", or the only one that fits.

    Raises:
        InputError: there is none, or several; the message lists them.
    """
    layers = read_layers(path)
    named = {f"{layer.name}.{name}": (layer, name) for layer in layers for name in layer.attributes}
    plain = {name: [pair for pair in named.values() if pair[1] == name] for _, name in named.values()}
    if key is not None:
        found = [named[key]] if key in named else plain.get(key, [])
        if len(found) == 1:
            return found[0]
        what = "more than one layer with" if found else f"no{did_you_mean(key, [*named, *plain])}"
        raise InputError(f"{path} has {what} attribute {key!r} for the classes; choose from {', '.join(named)}")
    fitting = [(layer, name) for layer, name in named.values() if _can_be_classes(layer.attributes[name])]
    if len(fitting) == 1:
        return fitting[0]
    raise InputError(f"{path}: name the attribute of the classes as gt_key; it has {', '.join(named) or 'none'}")


def _can_be_classes(values: np.ndarray) -> bool:
    """Whether values are texts or whole numbers of which some occur more than once, unlike an identifier."""
    if values.dtype.kind == "O":
        texts = [value for value in values if isinstance(value, str) and value.strip()]
        return bool(texts) and len({*texts}) <= max(1, len(texts) - 1)
    if values.dtype.kind not in "iuf":
        return False
    finite = values[np.isfinite(values.astype(float))]
    return finite.size > 0 and (finite == np.round(finite)).all() and len(np.unique(finite)) < finite.size


def class_values(values: np.ndarray) -> list[str]:
    """List the different values of an attribute, as class names, in ascending order; at most so many as can be."""
    texts = {_as_text(value) for value in values} - {""}
    numbers = sorted(int(text) for text in texts if _is_whole(text))
    return [*map(str, numbers), *sorted(text for text in texts if not _is_whole(text))][:_MOST_VALUES]


def _is_whole(text: str) -> bool:
    return re.fullmatch("-?[0-9]{1,9}", text) is not None


def _as_text(value: Any) -> str:
    if value is None or (isinstance(value, float | np.floating) and not np.isfinite(value)):
        return ""
    if isinstance(value, float | np.floating) and value == round(value):
        return str(int(value))
    return str(value).strip()


def burn_polygons(path: Path, spec: SceneSpec, like: Raster | None, notes: list[str] | None = None) -> np.ndarray:
    """Give every pixel of the cube the value of the polygon that its centre lies in.

    Args:
        path: the file.
        spec: the scene; `gt_key` names the attribute, and `class_names` the values of one of texts.
        like: the cube's raster, with its place on the map.
        notes: as for `cubes.read_cube`.
    Returns:
        (H, W) int64: the attribute's whole numbers, or for texts the number of the class name from 1 on;
        `UNLABELLED` outside all polygons. Where polygons overlap the later one counts.
    Raises:
        InputError: the cube has no place on the map, the coordinate systems cannot be brought together, the values are
            neither whole numbers nor class names, or no polygon lies on the cube.
    """
    layer, name = choose_attribute(path, spec.gt_key)
    transform, crs = (None, None) if like is None else (transform_of(like.georeference), crs_of(like.georeference))
    if like is None or transform is None:
        raise InputError(f"{path}: polygons need a cube with a place on the map, which that of {spec.name} has not")
    try:
        from rasterio import Affine, features
        from rasterio.crs import CRS
        from rasterio.warp import transform_geom
        from shapely.geometry import mapping
    except ImportError as error:
        raise InputError(f"{path}: {_NEEDED}") from error
    numbers = _numbers(layer.attributes[name], name, spec, path)
    pairs = zip(_shapes(layer, path), numbers, strict=True)
    used = [(mapping(shape), number) for shape, number in pairs if shape and not shape.is_empty and number is not None]
    if crs is not None and layer.crs is not None:
        ours = theirs = None
        try:
            ours, theirs = CRS.from_user_input(crs), CRS.from_user_input(layer.crs)
            if ours != theirs:
                used = [(transform_geom(theirs, ours, shape), number) for shape, number in used]
        except Exception as error:  # those of PROJ have no public class
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise InputError(
                f"{path}: its coordinates, read as {_short(theirs)}, cannot be brought to the cube's ({reason}); does "
                "the file name the wrong coordinate system, or none? A GeoJSON file without one is in degrees"
            ) from error
        if ours != theirs:
            note(notes, f"{path.name}: its polygons were brought from {_short(theirs)} to the cube's {_short(ours)}")
    elif crs is not None or layer.crs is not None:
        which = path.name if layer.crs is None else "the cube"
        note(notes, f"{which} does not name its coordinate system, which is taken to be the other's")
    burnt = np.full(like.shape[:2], UNLABELLED, np.int32)
    if used:
        features.rasterize(used, out=burnt, transform=Affine(*transform))
    labelled = burnt != UNLABELLED
    if not labelled.any():
        raise InputError(f"{path}: no polygon with a class lies on the cube of {spec.name}; is it of the same place?")
    note(notes, f"{path.name}: {len(used)} polygons by {name} label {int(labelled.sum()):,} pixels")
    return burnt.astype(np.int64)


def _shapes(layer: Layer, path: Path) -> list:
    """Give the polygons of a layer; InputError if one is none."""
    from shapely import from_wkb
    from shapely.errors import ShapelyError

    try:
        return [from_wkb(shape) for shape in layer.shapes]
    except ShapelyError as error:
        raise InputError(f"{path} has a polygon that is none ({str(error)[:160]}); correct it") from error


def _short(crs) -> str:
    code = None if crs is None else crs.to_epsg()
    return f"EPSG:{code}" if code else "another coordinate system"


def _numbers(values: np.ndarray, name: str, spec: SceneSpec, path: Path) -> list[int | None]:
    """Give the number that stands for each polygon; None for one without a class."""
    texts = [_as_text(value) for value in values]
    if not {*texts} - {"", *spec.class_names}:
        known = {class_name: i + 1 for i, class_name in enumerate(spec.class_names)}
        return [known.get(text) for text in texts]
    if all(_is_whole(text) for text in texts if text):
        return [int(text) if text else None for text in texts]
    known = {class_name: i + 1 for i, class_name in enumerate(spec.class_names)}
    if unknown := sorted({*texts} - {"", *known}):
        listed = ", ".join(map(repr, unknown[:10]))
        raise InputError(f"{path}: {name} has the values {listed}, which `class_names` does not name; add them there")
    return [known.get(text) for text in texts]
