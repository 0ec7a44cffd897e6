"""The .pt file of a run: the network with all that is needed to map another scene, or to resume training."""

import io
import zipfile
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from models import create_model
from models.base import PatchClassifier, SceneClassifier
from preprocessing import Preprocessing
from selective_scan import choose
from training.checkpoint_schema import check_archive, check_entries, check_network, check_state
from training.fitted import load
from utils import InputError, granted_memory, write_atomically

KIND = "mim-checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """What a .pt file holds, beside the entry "kind" that tells it from other files.

    Attributes:
        model: the network's name, sizes and options, see `model_facts`.
        preprocessing: normalisation and band reduction, see `Preprocessing.state`.
        class_names, palette: K names, and K colours "#rrggbb".
        scene: name of the training scene.
        wavelengths: of the training scene's bands in nm, or None.
        border: "mirror" or "skip".
        state: "weights", and what `engine.train` needs to resume: "optimiser", "schedule", "generators", "history",
            and within an epoch "unfinished".
        temperature: of the class probabilities, see `certainty.fit_temperature`.
        p_right: probabilities of the right class of the run's validation pixels, from which
            `certainty.conformal_threshold` is computed; None if there were none.
        context: of the class probabilities, see `context.GaussianContext.state`; None without.
        bands: of the training scene's file that the network takes, in this order, from 0; None in older checkpoints.
        n_in_file: bands of that file; None likewise.
        nodata: the value of that file's pixels without data; None if there is none, and in older checkpoints.
    """

    model: dict[str, Any]
    preprocessing: dict[str, Any]
    class_names: tuple[str, ...]
    palette: tuple[str, ...]
    scene: str
    wavelengths: tuple[float, ...] | None
    border: str
    state: dict[str, Any]
    temperature: float = 1.0
    p_right: tuple[float, ...] | None = None
    context: dict[str, Any] | None = None
    bands: tuple[int, ...] | None = None
    n_in_file: int | None = None
    nodata: float | None = None

    def with_state(self, state: dict[str, Any]) -> "Checkpoint":
        """Give the same checkpoint with another state."""
        return replace(self, state=state)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        buffer = io.BytesIO()
        torch.save({"kind": KIND} | {each.name: getattr(self, each.name) for each in fields(self)}, buffer)
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a file, weights and plain values only, onto the CPU.

        Raises:
            InputError: no such file, or not a checkpoint of MiM.
        """
        if not path.is_file():
            raise InputError(f"{path}: no such checkpoint; give a last.pt or best.pt of a run's folder")
        try:
            check_archive(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
        except InputError:
            raise
        except Exception as error:  # a damaged or foreign file can fail in any way
            raise InputError(
                f"{path} is not a readable checkpoint: {_kind_of_file(path)}; "
                "give a last.pt or best.pt of a run's folder"
            ) from error
        names = [each.name for each in fields(cls)]
        entries: dict[str, Any] = {
            "wavelengths": None,
            "temperature": 1.0,
            "p_right": None,
            "context": None,
            "bands": None,
            "n_in_file": None,
            "nodata": None,
        }  # older ones lack them
        entries |= content if isinstance(content, dict) else {}
        if entries.get("kind") != KIND or not {*names} <= {*entries}:
            raise InputError(f"{path} is not a MiM checkpoint; give a last.pt or best.pt of a run's folder")
        check_entries(path, entries)
        return cls(**{name: entries[name] for name in names})

    def network(self, device: torch.device) -> tuple[PatchClassifier, Preprocessing]:
        """Make the network on a device, with the best scan back end there, whatever it was trained with.

        Returns:
            The network, and the normalisation that it was trained on.
        Raises:
            InputError: the weights do not fit the network.
        """
        check_network(self.model, self.state["weights"])
        options: dict[str, Any] = {
            k: "auto" if k == "scan_backend" else value for k, value in self.model["options"].items()
        }
        sizes: dict[str, Any] = {name: self.model[name] for name in ("n_bands", "n_classes", "patch_size")}
        model = create_model(self.model["name"], **sizes, **options).to(device)
        load(model, self.model["name"], self.state["weights"])
        model.temperature = self.temperature
        return model, Preprocessing.from_state(self.preprocessing)


def _kind_of_file(path: Path) -> str:
    """Say in words what a file is that cannot be read as a checkpoint."""
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        return "it is empty"
    if start.startswith(b"\x93NUMPY"):
        return "it is an array of NumPy (.npy)"
    if not start.startswith(b"PK"):
        return "it is a file of another kind"
    if not zipfile.is_zipfile(path):
        return "its end is missing, as of a file that was copied or written in part"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if names and all(name.endswith(".npy") for name in names):
        return "it holds arrays of NumPy (.npz)"
    return "its content is damaged" if any(name.endswith("data.pkl") for name in names) else "it is another zip file"


def model_facts(name: str, model: PatchClassifier) -> dict[str, Any]:
    """Give what is needed to make a network of the same form again."""
    sizes = {"n_bands": model.n_bands, "n_classes": model.n_classes, "patch_size": model.patch_size}
    options = asdict(model.options)
    if "scales" in options:
        options["scales"] = model.scales  # as resolved
    return {"name": name, **sizes, "options": options}


def check_memory(model: PatchClassifier, height: int, width: int, device: torch.device, *, training: bool) -> None:
    """Raise InputError if a network that takes a scene of this size at once needs more memory than there is."""
    if not isinstance(model, SceneClassifier):
        return
    needed = height * width * (model.bytes_to_train if training else model.bytes_to_map)
    there = granted_memory(device)
    if there is not None and needed > there:
        raise InputError(
            f"{type(model).__name__} takes a scene at once, and {height} x {width} pixels need about "
            f"{needed / 2**30:.0f} GiB of memory, where there are {there / 2**30:.0f}; take a part of the scene or "
            "another model"
        )


def check_backend(model: PatchClassifier, device: torch.device) -> None:
    """Raise InputError if the scan back end that the model names cannot be used on the device."""
    options = asdict(model.options)
    if "scan_backend" in options:
        try:
            choose(options["scan_backend"], device.type, options["d_state"])
        except ValueError as error:
            raise InputError(f"--scan_backend: {error}") from error


def restore_weights(model: PatchClassifier, name: str, path: Path) -> None:
    """Start from a checkpoint's weights, which must be of the same network; InputError otherwise."""
    load(model, name, _of_same_network(model, name, path).state["weights"])


def resumable_state(path: Path, name: str, model: PatchClassifier) -> dict[str, Any]:
    """Read the state from which the training of a network is resumed; InputError if it is not that of the network."""
    state = _of_same_network(model, name, path).state
    check_state(state, [tuple(each.shape) for each in model.parameters()])
    return state


def _of_same_network(model: PatchClassifier, name: str, path: Path) -> Checkpoint:
    checkpoint = Checkpoint.load(path)
    theirs, ours = (_network(facts) for facts in (checkpoint.model, model_facts(name, model)))
    differing = [fact for fact in ours if theirs.get(fact) != ours[fact]]
    if differing:
        theirs, ours = ({fact: facts.get(fact) for fact in differing} for facts in (theirs, ours))
        raise InputError(f"{path} holds another network than this run's: {theirs} there, {ours} here")
    check_network(checkpoint.model, checkpoint.state["weights"])
    return checkpoint


def _network(facts: dict) -> dict:
    """Give the facts without those that change neither the weights nor what they do once trained."""
    return {k: v for k, v in (facts | facts["options"]).items() if k not in ("options", "dropout", "scan_backend")}
