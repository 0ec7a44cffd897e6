"""Polygons as ground truth, against a raster that was burnt by hand."""

from pathlib import Path

import numpy as np
import pytest

from cli.describe import describe
from datasets import load_scene
from utils import InputError

pyogrio = pytest.importorskip("pyogrio")
rasterio = pytest.importorskip("rasterio")
shapely = pytest.importorskip("shapely")

RNG = np.random.default_rng(0)
FIELDS = RNG.integers(0, 4, (4, 5))  # 0 has no polygon
GT = np.kron(FIELDS, np.ones((6, 7), int))
NAMES = ("oak", "pine", "beech")
PLACE = (30.0, 0.0, 366015.0, 0.0, -30.0, 5809965.0)


def write(path, values, crs="EPSG:32633", attributes=None):
    from pyogrio.raw import write as write_polygons
    from rasterio.warp import transform_geom

    shapes, found = [], []
    for i, j in np.argwhere(FIELDS):
        (x0, y0), (x1, y1) = (rasterio.Affine(*PLACE) * (7 * (j + k), 6 * (i + k)) for k in (0, 1))
        box = shapely.box(x0, y1, x1, y0)
        if crs not in ("EPSG:32633", None):
            box = shapely.geometry.shape(transform_geom("EPSG:32633", crs, shapely.geometry.mapping(box)))
        shapes.append(shapely.to_wkb(box))
        found.append(values[FIELDS[i, j] - 1])
    columns = {"kind": np.array(found, dtype=object if isinstance(found[0], str) else None)}
    columns["id"] = np.arange(len(found))
    columns |= attributes or {}
    geometry = np.array(shapes, dtype=object)
    driver = {".gpkg": "GPKG", ".shp": "ESRI Shapefile", ".geojson": "GeoJSON"}[path.suffix]
    write_polygons(
        path, geometry, list(columns.values()), list(columns), geometry_type="Polygon", crs=crs, driver=driver
    )


@pytest.fixture
def home(tmp_path):
    cube = RNG.normal(size=(6, *GT.shape)).astype(np.float32)
    facts = {"driver": "GTiff", "height": GT.shape[0], "width": GT.shape[1], "count": 6, "dtype": "float32"}
    with rasterio.open(
        tmp_path / "cube.tif", "w", crs="EPSG:32633", transform=rasterio.Affine(*PLACE), **facts
    ) as file:
        file.write(cube)
    return tmp_path


def load(home, gt, more="", names=NAMES):
    listed = ", ".join(f'"{name}"' for name in names)
    (home / "scene.toml").write_text(f'cube = "cube.tif"\ngt = "{gt}"\nclass_names = [{listed}]\n{more}')
    return load_scene(str(home), Path(), need_gt=True)


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".geojson"])
@pytest.mark.parametrize("key", ["", 'gt_key = "kind"\n', 'gt_key = "fields.kind"\n'])
def test_polygons_label_the_pixels_whose_centre_they_hold(home, suffix, key):
    crs = "EPSG:4326" if suffix == ".geojson" else "EPSG:32633"
    write(home / f"fields{suffix}", NAMES, crs)
    scene = load(home, f"fields{suffix}", key)
    assert np.array_equal(np.asarray(scene.gt), GT)
    assert any("polygons by kind label" in note for note in scene.notes)
    assert any("EPSG:4326 to the cube's EPSG:32633" in note for note in scene.notes) == (suffix == ".geojson")


def test_whole_numbers_are_classes_in_ascending_order(home):
    write(home / "fields.gpkg", (10, 20, 30))
    assert np.array_equal(np.asarray(load(home, "fields.gpkg", 'gt_key = "kind"\n').gt), GT)


def test_outside_the_polygons_there_is_no_label_though_0_is_a_class(home):
    write(home / "fields.gpkg", (0, 1, 2))
    assert np.array_equal(np.asarray(load(home, "fields.gpkg", 'gt_key = "kind"\nunlabelled = 255\n').gt), GT)


def test_polygons_without_a_class_are_unlabelled(home):
    write(home / "fields.gpkg", ("oak", "", "beech"))
    assert np.array_equal(np.asarray(load(home, "fields.gpkg").gt), np.where(GT == 2, 0, GT))


def test_what_does_not_fit_is_refused_with_the_choices(home):
    write(home / "fields.gpkg", NAMES, attributes={"kind2": np.array(["x"] * int((FIELDS > 0).sum()), dtype=object)})
    with pytest.raises(InputError, match="name the attribute of the classes as gt_key; it has fields"):
        load(home, "fields.gpkg")
    with pytest.raises(InputError, match="no attribute 'nothing'"):
        load(home, "fields.gpkg", 'gt_key = "nothing"\n')
    with pytest.raises(InputError, match="has the values 'beech', which `class_names` does not name"):
        load(home, "fields.gpkg", 'gt_key = "kind"\n', NAMES[:2])
    (home / "broken.gpkg").write_bytes(b"\0" * 100)
    with pytest.raises(InputError, match="not a readable file of polygons"):
        load(home, "broken.gpkg")
    np.save(home / "cube.npy", RNG.normal(size=(*GT.shape, 6)))
    text = 'cube = "cube.npy"\ngt = "fields.gpkg"\ngt_key = "kind"\nclass_names = ["oak", "pine", "beech"]\n'
    (home / "scene.toml").write_text(text)
    with pytest.raises(InputError, match="polygons need a cube with a place on the map"):
        load_scene(str(home), Path(), need_gt=True)


def test_polygons_of_another_place_are_refused(home, monkeypatch):
    monkeypatch.setattr("test_vectors.PLACE", (30.0, 0.0, 966015.0, 0.0, -30.0, 5809965.0))
    write(home / "fields.gpkg", NAMES)
    with pytest.raises(InputError, match="no polygon with a class lies on the cube"):
        load(home, "fields.gpkg")


def test_describe_lists_attributes_and_their_values(home):
    write(home / "fields.gpkg", NAMES)
    lines = describe(str(home / "fields.gpkg"), Path())
    assert "  kind: 3 values, beech, oak, pine" in lines
