"""Label maps with a place on the map, with a no-data value, in colours, and polygons, beside a placed cube."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from datasets import load_scene
from splits.fixed_masks import load_split
from utils import InputError

rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")

RNG = np.random.default_rng(0)
GT = RNG.integers(1, 4, (12, 15)).astype(np.uint8)
CUBE = RNG.normal(size=(*GT.shape, 6)).astype(np.float32)
PLACE = (30.0, 0, 500_000, 0, -30.0, 4_000_000)
NAMES = 'class_names = ["a", "b", "c"]\n'


def same(one, other):
    return np.array_equal(np.asarray(one), np.asarray(other))


def tif(path, array, transform=PLACE, crs: str | None = "EPSG:32633", **facts):
    bands = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    place = {} if transform is None else {"transform": rasterio.Affine(*transform), "crs": crs}
    shape = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place, **facts) as file:
        file.write(bands)


@pytest.fixture
def home(tmp_path):
    tif(tmp_path / "cube.tif", CUBE)
    return tmp_path


def read(home, gt="gt.tif", more=NAMES):
    (home / "scene.toml").write_text(f'cube = "cube.tif"\ngt = "{gt}"\n{more}')
    return load_scene(str(home), Path(), need_gt=True)


def test_a_label_map_on_the_cubes_grid_is_taken_as_it_is(home):
    tif(home / "gt.tif", GT)
    scene = read(home)
    assert same(scene.gt, GT) and not scene.notes
    a, b, c, d, e, f = PLACE
    tif(home / "gt.tif", GT, (a, b, c + 0.4 * a, d, e, f))  # by less than half a pixel
    assert same(read(home).gt, GT)


def test_a_label_map_that_runs_from_south_to_north_is_turned(home):
    a, b, c, d, e, f = PLACE
    tif(home / "gt.tif", GT[::-1], (a, b, c, d, -e, f + e * len(GT)))
    scene = read(home)
    assert same(scene.gt, GT)
    assert "brought to the cube's grid" in scene.notes[0]


def test_a_label_map_of_the_cubes_size_that_is_shifted_is_put_in_place(home):
    a, b, c, d, e, f = PLACE
    tif(home / "gt.tif", GT, (a, b, c + 3 * a, d, e, f + 2 * e))
    expected = np.zeros_like(GT)
    expected[2:, 3:] = GT[:-2, :-3]
    assert same(read(home).gt, expected)
    tif(home / "gt.tif", GT, (a, b, c + 200_000, d, e, f))
    with pytest.raises(InputError, match=r"gt\.tif and the cube do not overlap on the map"):
        read(home)


@pytest.mark.parametrize("with_system", [True, False])
def test_a_place_without_a_coordinate_system_is_compared_too(home, with_system):
    a, b, c, d, e, f = PLACE
    tif(home / "cube.tif", CUBE, crs="EPSG:32633" if with_system else None)
    tif(home / "gt.tif", GT, (a, b, c + a, d, e, f), crs=None)
    assert same(np.asarray(read(home).gt)[:, 1:], GT[:, :-1])
    tif(home / "gt.tif", GT, (1.0, 0, 0, 0, -1.0, 0), crs=None)  # pixels are no place
    assert same(read(home).gt, GT)


def test_a_label_map_in_another_coordinate_system_is_looked_up_there(home):
    from rasterio.warp import Resampling, reproject

    size = (60, 60)  # around the cube, in zone 32 and of finer pixels
    finer = RNG.integers(1, 4, size).astype(np.uint8)
    (east,), (north,) = rasterio.warp.transform("EPSG:32633", "EPSG:32632", [500_225.0], [3_999_820.0])
    place = (11.0, 0, east - 330, 0, -11.0, north + 330)
    tif(home / "gt.tif", finer, place, "EPSG:32632")
    expected = np.zeros(GT.shape, np.uint8)
    reproject(
        finer, expected, src_transform=rasterio.Affine(*place), src_crs="EPSG:32632",
        dst_transform=rasterio.Affine(*PLACE), dst_crs="EPSG:32633", resampling=Resampling.nearest, tolerance=0,
    )  # fmt: skip
    assert (np.asarray(read(home).gt) == expected).mean() > 0.99  # GDAL approximates
    tif(home / "gt.tif", GT, PLACE, "EPSG:32632")  # 500 km away
    with pytest.raises(InputError, match="do not overlap on the map"):
        read(home)


def test_masks_are_put_in_place_too(home):
    a, b, c, d, e, f = PLACE
    train, test = np.where(np.arange(GT.size).reshape(GT.shape) % 2, GT, 0), None
    test = np.where(train == 0, GT, 0).astype(np.uint8)
    tif(home / "gt.tif", GT)
    tif(home / "train.tif", train.astype(np.uint8)[::-1], (a, b, c, d, -e, f + e * len(GT)))
    tif(home / "test.tif", test, nodata=0)
    split = load_split(home / "train.tif", home / "test.tif", read(home))
    assert same(split.train, train) and same(split.test, test)
    assert any("train.tif" in note and "cube's grid" in note for note in split.notes)


def test_0_is_a_class_if_the_file_has_another_no_data_value(home):
    values = np.where(GT == 3, 255, GT - 1).astype(np.uint8)  # 0, 1, and 255 without label
    for nodata, names in ((255, '["a", "b"]'), (None, '["a", "b", "c"]')):
        tif(home / "gt.tif", values if nodata else (GT - 1).astype(np.uint8), nodata=nodata)
        if nodata is None:
            with pytest.raises(InputError, match="is 0 the class 'a'"):
                read(home, more=f"class_names = {names}\n")
            continue
        scene = read(home, more=f"class_names = {names}\n")
        assert same(scene.gt, np.where(GT == 3, 0, GT))
        assert scene.spec.class_names == ("a", "b")
    tif(home / "gt.tif", np.where(GT == 3, 255, GT).astype(np.uint8), nodata=255)  # 1 and 2, no 0
    assert same(read(home, more='class_names = ["a", "b"]\n').gt, np.where(GT == 3, 0, GT))


def test_a_value_that_the_scene_names_as_unlabelled_leaves_a_no_data_value_of_0_a_class(home):
    values = np.array([0, 1, 255], np.uint8)[GT - 1]
    tif(home / "gt.tif", values, nodata=0)
    scene = read(home, more='unlabelled = 255\nclass_names = ["a", "b"]\n')
    assert same(scene.gt, np.where(GT == 3, 0, GT))


def test_a_coloured_geotiff_is_read_by_the_palette(home):
    colours = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
    gt = np.where(np.arange(GT.size).reshape(GT.shape) % 5, GT, 0)
    tif(home / "gt.tif", colours[gt])
    assert same(read(home, more=NAMES + 'palette = ["#ff0000", "#00ff00", "#0000ff"]\n').gt, gt)
    with pytest.raises(InputError, match="colours that `palette` does not name"):
        read(home)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_of_a_png_are_unlabelled(home, mode):
    gt, more = np.where(np.arange(GT.size).reshape(GT.shape) % 5, GT, 0), NAMES
    if mode == "RGBA":
        colours = np.array([(9, 9, 9, 0), (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)], np.uint8)
        picture, more = Image.fromarray(colours[gt]), NAMES + 'palette = ["#ff0000", "#00ff00", "#0000ff"]\n'
    elif mode == "LA":
        picture = Image.fromarray(np.stack([np.where(gt == 0, 2, gt), 255 * (gt > 0)], -1).astype(np.uint8))
    else:
        picture = Image.fromarray(np.where(gt == 0, 7, gt).astype(np.uint8))
        picture.putpalette(bytes(range(24)))
    if mode == "P":
        picture.save(home / "gt.png", transparency=7)
    else:
        picture.save(home / "gt.png")
    assert same(read(home, "gt.png", more).gt, gt)


def test_only_gulfports_labels_below_1_are_unlabelled_by_themselves(home):
    savemat(home / "gt.mat", {"s": {"gt": GT.astype(np.int16) - 2}})  # -1, 0 and 1
    scene = read(home, "gt.mat", 'gt_key = "s.gt"\nunlabelled = -1\nclass_names = ["a", "b"]\n')
    assert same(scene.gt, GT - 1)


@pytest.mark.parametrize("first", [0, 1])
def test_a_polygon_with_the_number_0_is_a_class_if_there_are_as_many_names(home, first):
    pytest.importorskip("pyogrio")
    import json

    a, _, c, _, e, f = PLACE
    boxes = [(c + a * 4 * i, f + e * 10, c + a * (4 * i + 3), f + e * 2) for i in range(3)]
    rings = [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]] for x0, y0, x1, y1 in boxes]
    features = [
        {"type": "Feature", "properties": {"id": i + first}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        for i, ring in enumerate([*rings, rings[0]])
    ]
    features[-1]["properties"]["id"] = first
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    (home / "gt.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    gt = np.asarray(read(home, "gt.geojson", 'gt_key = "id"\n' + NAMES).gt)
    assert {*np.unique(gt).tolist()} == {0, 1, 2, 3}
    assert (gt[2:10, 0:3] == 1).all() and (gt[2:10, 4:7] == 2).all() and (gt[:2] == 0).all()


def test_polygons_in_metres_that_do_not_say_so_are_one_sentence(home):
    pytest.importorskip("pyogrio")
    ring = "[[500000, 4000000], [500100, 4000000], [500100, 3999900], [500000, 4000000]]"
    feature = (
        f'{{"type": "Feature", "properties": {{"k": "a"}}, "geometry": {{"type": "Polygon", "coordinates": [{ring}]}}}}'
    )
    (home / "gt.geojson").write_text(f'{{"type": "FeatureCollection", "features": [{feature}, {feature}]}}')
    with pytest.raises(InputError, match=r"gt\.geojson: .*cannot be brought to the cube's"):
        read(home, "gt.geojson", 'gt_key = "k"\n' + NAMES)


def test_16_bit_pictures_are_label_maps(home):
    Image.fromarray(GT.astype(np.uint16)).save(home / "gt.png")
    assert same(read(home, "gt.png").gt, GT)


def test_a_coloured_geotiff_with_clear_pixels_is_read_by_the_palette(home):
    colours = np.array([(7, 7, 7, 0), (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)], np.uint8)
    gt = np.where(np.arange(GT.size).reshape(GT.shape) % 5, GT, 0)
    tif(home / "gt.tif", colours[gt], photometric="RGB", alpha="YES")
    assert same(read(home, more=NAMES + 'palette = ["#ff0000", "#00ff00", "#0000ff"]\n').gt, gt)


def test_names_in_the_file_of_the_labels_must_be_in_the_order_of_the_scene(home):
    from scenes.rasters import write_labels

    write_labels(home / "gt.tif", GT, ("a", "b", "c"), ("#ff0000", "#00ff00", "#0000ff"))
    assert same(read(home).gt, GT)
    with pytest.raises(InputError, match=r"names its classes 1, 2, ... a, b, c, and .*scene\.toml has them in another"):
        read(home, more='class_names = ["b", "a", "c"]\n')
    assert same(read(home, more='class_names = ["x", "y", "z"]\n').gt, GT)


def test_polygons_are_matched_by_name_if_all_their_values_are_names(home):
    pytest.importorskip("pyogrio")
    import json

    a, _, c, _, e, f = PLACE
    boxes = [(c + a * 4 * i, f + e * 10, c + a * (4 * i + 3), f + e * 2) for i in range(3)]
    rings = [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]] for x0, y0, x1, y1 in boxes]
    features = [
        {"type": "Feature", "properties": {"k": k}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        for k, ring in zip((10, 2, 3), rings, strict=True)
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    (home / "gt.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    gt = np.asarray(read(home, "gt.geojson", 'gt_key = "k"\nclass_names = ["10", "2", "3"]\n').gt)
    assert [gt[5, 1], gt[5, 5], gt[5, 9]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("UTM, 1, 1, 0, 0, 1, 1, 11, North, North America 1983", "EPSG:26911"),
        ("UTM, 1, 1, 0, 0, 1, 1, 32, North, European 1950", "EPSG:23032"),
        ("UTM, 1, 1, 0, 0, 1, 1, 33, South, WGS-84", "EPSG:32733"),
        ("Geographic Lat/Lon, 1, 1, 0, 0, 1, 1, North America 1927", "EPSG:4267"),
        ("UTM, 1, 1, 0, 0, 1, 1, 11, South, North America 1983", None),
    ],
)
def test_the_datum_of_a_header_is_known(words, code):
    from scenes.georeference import crs_of

    assert crs_of({"map info": words.split(", ")}) == code
