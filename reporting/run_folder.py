"""A finished run's folder, read again: for its pictures and its page, and to compare it with others."""

import io
import json
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from reporting.results import read_json, scale_names
from utils import InputError, write_atomically

OLD_SPLIT = "buffered, fold"
MAPS = ("truth", "train", "validation", "test", "confidence", "false_colour")


@dataclass(frozen=True)
class Run:
    """A run as its folder tells it.

    Attributes:
        folder: where it lies.
        metrics: what metrics.json holds.
    """

    folder: Path
    metrics: dict

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read a run's folder; InputError where it is none, not complete, or of a version without maps.npz."""
        if (folder / "config.json").is_file() and not (folder / "metrics.json").exists():
            raise InputError(f"{folder} is not complete; `python main.py --resume {folder}` goes on with it")
        metrics = read_json(folder / "metrics.json")
        if not isinstance(metrics, dict) or not {"confusion", "class_names", "protocol", "seconds"} <= set(metrics):
            raise InputError(f"{folder / 'metrics.json'} is not that of a run; give the folder of a run")
        if "palette" not in metrics or not (folder / "maps.npz").is_file():
            raise InputError(f"{folder} has no maps.npz, it is of an earlier version; train it again")
        return cls(folder, metrics)

    @property
    def protocol(self) -> dict:
        """What the result rests on, with today's name for a split that earlier versions called buffered."""
        protocol = self.metrics["protocol"]
        if str(protocol.get("split")).startswith(OLD_SPLIT):
            return protocol | {"split": protocol["split"].replace(OLD_SPLIT, "spatial cross-validation, fold", 1)}
        return protocol

    @property
    def model(self) -> str:
        """The network's name."""
        return self.protocol["model"]["name"]

    @property
    def scene(self) -> str:
        """The scene's name."""
        return self.protocol["scene"]

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names; index i is label i + 1."""
        return tuple(self.metrics["class_names"])

    @property
    def palette(self) -> tuple[str, ...]:
        """K colours "#rrggbb"."""
        return tuple(self.metrics["palette"])

    @property
    def scale_names(self) -> tuple[str, ...]:
        """Names of the rows of a record's "scale_losses", see `results.scale_names`."""
        n_rows = len(self.records[-1]["scale_losses"]) if self.records else 0
        return scale_names(self.protocol["model"]["options"].get("scales", ()), n_rows)

    @cached_property
    def records(self) -> list[dict]:
        """A record per epoch, see `engine.History`."""
        try:
            return [json.loads(line) for line in (self.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise InputError(f"{self.folder / 'log.jsonl'} is missing or damaged; give the folder of a run") from error

    @cached_property
    def audit(self) -> dict:
        """What audit.json holds, see `audit.examine`; "sentences" among it."""
        return read_json(self.folder / "audit.json")

    @cached_property
    def prediction(self) -> np.ndarray:
        """(H, W) labels 1..K; 0 where nothing was predicted."""
        return self._load("prediction.npy")

    @cached_property
    def maps(self) -> dict[str, np.ndarray]:
        """The arrays of MAPS, see `write_maps`."""
        with self._load("maps.npz") as archive:
            try:
                return {name: archive[name] for name in MAPS}
            except (KeyError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
                raise InputError(f"{self.folder / 'maps.npz'} is damaged; train the run again") from error

    def _load(self, name: str):
        try:
            return np.load(self.folder / name, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{self.folder / name} is missing or damaged; train the run again") from error


def write_maps(folder: Path, **maps: np.ndarray) -> None:
    """Write maps.npz, whole or not at all.

    Args:
        folder: of the run.
        maps: those of MAPS, all (H, W): truth, train, validation and test are label maps, 0 where a pixel is not in
            them; confidence is the probability of the predicted class, float16 in [0, 1], 0 where nothing was
            predicted; false_colour is (H, W, 3) uint8.
    """
    if set(maps) != set(MAPS):
        raise ValueError(f"the maps of a run are {', '.join(MAPS)}, not {', '.join(maps)}")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **maps)
    write_atomically(folder / "maps.npz", buffer.getvalue())
