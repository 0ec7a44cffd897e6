"""The catalogue of known scenes, one TOML file each: to add a scene, add a file. The tests check the facts.

The number that a file's name begins with gives the scene's place in lists. The keys are those of a user's scene.toml
and a few more, see scenes/scene_toml.py; the data of a scene are in its folder of the data root, not here.
"""

import functools
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from scenes.scene_toml import FILE, read_catalogue_file, read_description
from scenes.spec import MASK_KEYS, PALETTE, MaskSpec, SceneSpec
from utils import InputError, match_name, plain_name

__all__ = ["MASK_KEYS", "PALETTE", "SCENES", "MaskSpec", "SceneSpec", "find_scene", "find_spec"]

AUGMENTED = "augmented"


class _Catalogue(MutableMapping[str, SceneSpec]):
    """The scenes by name, in order; the files are read when the first scene is asked for."""

    @functools.cached_property
    def _specs(self) -> dict[str, SceneSpec]:
        specs = {}
        for path in sorted(Path(__file__).parent.glob("*.toml")):
            spec = read_catalogue_file(path, specs)
            specs[spec.name] = spec
        return specs

    def __getitem__(self, name: str) -> SceneSpec:
        return self._specs[name]

    def __setitem__(self, name: str, spec: SceneSpec) -> None:
        self._specs[name] = spec

    def __delitem__(self, name: str) -> None:
        del self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


SCENES = _Catalogue()


def find_scene(name: str) -> SceneSpec:
    """Look up a scene of the catalogue by name or alias, without regard to case, "-" and "_".

    Raises:
        InputError: no scene has that name; the message lists the choices, and the nearest one if it is close.
    """
    aliases = {alias: scene for scene, spec in SCENES.items() for alias in spec.aliases}
    return SCENES[match_name(name, SCENES, "scene", aliases)]


def find_spec(name: str, folder: Path) -> SceneSpec:
    """Look up a scene: in the catalogue, else FOLDER/NAME/scene.toml, else a path to a scene.toml or to its folder.

    Args:
        name: what the user typed; case, "-" and "_" do not matter in a name.
        folder: data root.
    Raises:
        InputError: no such scene exists (all choices are listed), or its scene.toml is wrong.
    """
    try:
        return find_scene(name)
    except InputError as error:
        described = {path.parent.name: path for path in sorted(Path(folder).glob(f"*/{FILE}"))}
        for title, path in described.items():
            if plain_name(title) == plain_name(name):
                return read_description(path, SCENES)
        path = Path(name) / FILE if Path(name).is_dir() else Path(name)
        if path.exists() and path.suffix.lower() == ".toml":
            return read_description(path, SCENES)
        if path.name == FILE or path.suffix.lower() == ".toml":
            raise InputError(
                f"{path}: no such file; `python main.py --describe FILE` suggests what to write"
            ) from error
        if path.is_file():
            raise InputError(
                f"{path} is a file, not a scene; `python main.py --describe {path}` suggests a {FILE} for it"
            ) from error
        if plain_name(name).startswith(AUGMENTED):
            raise InputError(
                f"{name} is not published in a stable form; `python main.py --augment 2 --dataset NAME` writes one, or "
                f"put a {FILE} into {Path(folder) / name} that names the cube and your larger training mask"
            ) from error
        if any(mark in name for mark in ("/", "\\")) or name.startswith("."):
            raise InputError(
                f"{name}: no such folder or {FILE}; give a folder that holds one, or a scene's name"
            ) from error
        more = f"; described in {folder}: {', '.join(described)}" if described else ""
        raise InputError(f"{error}{more}") from error
