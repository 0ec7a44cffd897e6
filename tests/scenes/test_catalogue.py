"""The catalogue against totals that were counted elsewhere, and its names, colours and lookups."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from scenes.catalogue import SCENES, find_scene
from scenes.scene_toml import read_catalogue_file, read_description
from scenes.spec import MASK_KEYS, PALETTE, MaskSpec
from utils import InputError

ROOT = Path(__file__).resolve().parents[2]

# name: (H, W, n_bands), classes, labelled pixels (None: depends on a seed or a resampling)
KNOWN = {
    "IndianPines": ((145, 145, 200), 16, 10_249),
    "PaviaU": ((610, 340, 103), 9, 42_776),
    "PaviaC": ((1096, 715, 102), 9, 148_152),
    "Salinas": ((512, 217, 204), 16, 54_129),
    "KSC": ((512, 614, 176), 13, 5_211),
    "Botswana": ((1476, 256, 145), 14, 3_248),
    "Houston2013": ((349, 1905, 144), 15, 15_029),
    "Houston2018": ((601, 2384, 48), 20, None),
    "MississippiGulfport": ((325, 220, 64), 11, 53_687),
    "WHU-Hi-LongKou": ((550, 400, 270), 9, 204_542),
    "WHU-Hi-HanChuan": ((1217, 303, 274), 16, 257_530),
    "WHU-Hi-HongHu": ((940, 475, 270), 22, 386_693),
    "Simulated": ((128, 128, 64), 10, None),
}
MASKED = {"IndianPines": (695, 9_671), "PaviaU": (3_921, 40_002), "Houston2013": (2_832, 12_197)}

every_scene = pytest.mark.parametrize("spec", SCENES.values(), ids=SCENES)


def lab(colour):
    """CIELAB of "#rrggbb" under D65."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = to_xyz @ linear / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_catalogue_holds_exactly_the_known_scenes():
    assert list(SCENES) == list(KNOWN)
    assert all(spec.name == spec.folder == name for name, spec in SCENES.items())


@every_scene
def test_shapes_classes_and_labelled_pixels_add_up(spec):
    assert (spec.shape, spec.n_classes, spec.n_labelled) == KNOWN[spec.name]


def test_the_sizes_of_the_pixels_are_the_published_ones():
    metres = {name: spec.pixel_size for name, spec in SCENES.items() if spec.pixel_size is not None}
    assert metres == {
        **{"IndianPines": 20, "PaviaU": 1.3, "PaviaC": 1.3, "Salinas": 3.7, "KSC": 18, "Botswana": 30},
        **{"Houston2013": 2.5, "Houston2018": 1},
        **{"WHU-Hi-LongKou": 0.463, "WHU-Hi-HanChuan": 0.109, "WHU-Hi-HongHu": 0.043},
    }


@every_scene
def test_every_class_has_a_name_a_colour_and_a_count(spec):
    assert len(set(spec.class_names)) == len(set(spec.palette)) == len(spec.palette) == spec.n_classes
    assert all(name == name.strip() and name for name in spec.class_names)
    assert not any(re.search(r" \d\d+$", name) for name in spec.class_names), "a count was read as part of a name"
    if spec.class_counts is not None:
        assert len(spec.class_counts) == spec.n_classes
        assert min(spec.class_counts) > 0


def test_colours_are_far_from_each_other_and_from_black_and_white():
    colours = np.array([lab(colour) for colour in (*PALETTE, "#000000", "#ffffff")])
    distance = np.linalg.norm(colours[:, None] - colours, axis=-1) + 1000 * np.eye(len(colours))
    assert len(PALETTE) >= 22
    assert distance.min() > 25


@every_scene
def test_rgb_bands_are_three_bands_of_the_cube_from_red_to_blue(spec):
    red, green, blue = spec.rgb_bands
    assert spec.shape[2] > red > green > blue >= 0


@every_scene
def test_every_address_leads_to_a_file_of_the_scene(spec):
    masks = MASK_KEYS if spec.masks else {}
    assert set(spec.urls) <= {spec.cube_file, spec.gt_file, *masks}
    assert set(spec.sums) <= set(spec.urls)
    for file, url in spec.urls.items():
        assert url.startswith("https://")
        assert unquote(urlsplit(url).path).rsplit("/", 1)[-1] == file


def masks_of(name):
    masks = SCENES[name].masks
    assert masks is not None
    return masks


def test_only_scenes_with_published_masks_have_masks():
    assert {name for name, spec in SCENES.items() if spec.masks} == set(MASKED)
    for name, totals in MASKED.items():
        masks = masks_of(name)
        assert (sum(masks.train_counts), sum(masks.test_counts)) == totals
        assert len(masks.names) == len(masks.train_counts) == len(masks.test_counts) == SCENES[name].n_classes


def test_the_indian_pines_masks_are_renumbered():
    in_ground_truth = [2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16, 1, 7, 9]  # by mask id, from 1
    spec = SCENES["IndianPines"]
    assert [spec.class_names.index(name) + 1 for name in masks_of("IndianPines").names] == in_ground_truth


@pytest.mark.parametrize("name", ["PaviaU", "Houston2013"])
def test_the_other_masks_keep_the_scenes_numbering(name):
    assert masks_of(name).names == SCENES[name].class_names


def test_the_houston_masks_split_the_ground_truth_and_lie_transposed():
    masks = masks_of("Houston2013")
    together = tuple(map(sum, zip(masks.train_counts, masks.test_counts, strict=True)))
    assert together == SCENES["Houston2013"].class_counts
    assert [name for name in MASKED if masks_of(name).transposed] == ["Houston2013"]


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("IndianPines", "IndianPines"),
        ("indian_pines", "IndianPines"),
        ("PAVIAU", "PaviaU"),
        ("whu_hi_longkou", "WHU-Hi-LongKou"),
        ("Mississippi_Gulfport", "MississippiGulfport"),
        ("simulate-database", "Simulated"),
    ],
)
def test_names_match_without_regard_to_case_and_dashes(typed, name):
    assert find_scene(typed) is SCENES[name]


def test_every_alias_is_found():
    aliases = {alias: name for name, spec in SCENES.items() for alias in spec.aliases}
    assert set(aliases) == {"DFC2018_HSI", "2018_IEEE_GRSS_DFC", "Mississippi_Gulfport", "Simulate_database"}
    assert all(find_scene(alias).name == name for alias, name in aliases.items())


def test_an_unknown_name_is_answered_with_the_choices_and_the_nearest_one():
    with pytest.raises(ValueError, match=r"'Indian Pine' \(did you mean IndianPines\?\); choose from .*Simulated"):
        find_scene("Indian Pine")
    with pytest.raises(ValueError, match="'moon'; choose from IndianPines") as caught:
        find_scene("moon")
    assert "did you mean" not in str(caught.value)


def test_facts_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SCENES["PaviaU"].shape = (1, 1, 1)  # pyright: ignore[reportAttributeAccessIssue]


# A file of the catalogue

MOON = """\
name = "Moon"
source = "nowhere"
cube = "moon.mat"
gt = "moon_gt.mat"
shape = [5, 4, 3]
rgb_bands = [2, 1, 0]
class_names = ["Sea", "Crater"]
class_counts = [7, 9]
[urls]
"moon_gt.mat" = "https://example.org/moon_gt.mat"
[masks]
train_counts = [3, 4]
test_counts = [4, 5]
"""


def read(tmp_path, text):
    (tmp_path / "moon.toml").write_text(text)
    return read_catalogue_file(tmp_path / "moon.toml", SCENES)


def test_a_scene_needs_no_more_than_a_file(tmp_path, monkeypatch):
    spec = read(tmp_path, f'aliases = ["Luna"]\nn_dropped = 2\n{MOON}transposed = true')
    assert (spec.name, spec.folder, spec.shape, spec.n_dropped) == ("Moon", "Moon", (5, 4, 3), 2)
    assert spec.palette == PALETTE[:2]
    assert spec.masks == MaskSpec(("Sea", "Crater"), (3, 4), (4, 5), transposed=True)
    assert (spec.cube_key, spec.pixel_size, spec.sums, spec.described) == (None, None, {}, None)
    monkeypatch.setitem(SCENES, "Moon", spec)
    assert find_scene("luna") is spec
    assert list(SCENES)[-1] == "Moon"


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("shape = [5, 4, 3]", "shape = [5, 4]", "line 5: 'shape' must be a list of three whole numbers above 0: rows"),
        ("shape = [5, 4, 3]", "", "'shape' is missing; it must be a list of three"),
        ("[2, 1, 0]", "[3, 1, 0]", "line 6: 'rgb_bands' counts from 0, and the cube has 3 bands"),
        ("[7, 9]", "[7]", "line 8: 'class_counts' has 1 numbers for 2 class names"),
        ("[7, 9]", "[7, -9]", "line 8: 'class_counts' must be a list of whole numbers"),
        ("class_counts", "class_count", r"line 8: 'class_count' is unknown \(did you mean class_counts\?\)"),
        ('"https:', '"http:', "line 9: 'urls' must be a table of file"),
        ('"moon_gt.mat" =', '"moon_gt.mt" =', r"line 9: 'urls' names 'moon_gt.mt' \(did you mean moon_gt.mat\?\); "),
        ("[masks]", '[sums]\n"moon.mat" = "0"\n[masks]', "line 11: 'sums' must be a table of file"),
        ("[masks]", f'[sums]\n"moon.mat" = "{"0" * 64}"\n[masks]', "line 11: 'sums' names 'moon.mat'"),
        ("[3, 4]", "[3]", "line 12: 'masks.train_counts' has 1 numbers for 2 class names"),
        ("test_counts", "tests", r"line 13: 'masks.tests' is unknown .*choose from names, train_counts"),
        ("test_counts = [4, 5]", "", "line 11: 'masks.test_counts' is missing"),
        ("[masks]", '[masks]\nnames = ["Sea", "Hill"]', "line 12: 'masks.names' must be the class names, each once"),
        ('cube = "moon.mat"', "", "'cube' is missing"),
        ('gt = "moon_gt.mat"', "", "'gt' is missing"),
        ('"Moon"', '"pavia_u"', "line 1: 'name' is that of a scene of the catalogue"),
        ("[urls]", 'train = "t.mat"\n[urls]', "line 9: 'train' is unknown"),
    ],
)
def test_a_wrong_entry_of_the_catalogue_is_named_with_file_line_and_key(tmp_path, old, new, match):
    with pytest.raises(InputError, match=rf"moon\.toml.*{match}") as caught:
        read(tmp_path, MOON.replace(old, new))
    assert "\n" not in str(caught.value)


def test_keys_of_the_catalogue_are_not_those_of_a_users_scene(tmp_path):
    (tmp_path / "scene.toml").write_text('cube = "a.npy"\nshape = [5, 4, 3]\n')
    with pytest.raises(InputError, match="line 2: 'shape' is unknown"):
        read_description(tmp_path / "scene.toml")


def test_importing_the_catalogue_opens_no_file_and_loads_no_package_of_the_formats():
    program = """
import sys
import utils
def refuse(event, arguments):
    assert event != "open" or not str(arguments[0]).endswith(".toml"), arguments
sys.addaudithook(refuse)
from scenes.catalogue import SCENES, find_scene
import datasets
import splits.fixed_masks
print(*sorted({"h5py", "scipy", "spectral", "rasterio"} & {*sys.modules}))
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "\n"), result.stderr
