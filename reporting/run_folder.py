"""Read the folder of a finished run: for its pictures and its page, and to compare it with other runs."""

import io
import json
import shlex
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
FURTHER_MAPS = ("blocks", "sets")  # runs of earlier versions lack blocks, runs without --conformal sets


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder.

    Attributes:
        folder: the run's folder.
        metrics: the content of metrics.json.
    """

    folder: Path
    metrics: dict

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read a run's folder; InputError if it is not a run's, incomplete, or of a version without maps.npz."""
        if (folder / "config.json").is_file() and not (folder / "metrics.json").exists():
            raise InputError(
                f"{folder} is not complete; `python main.py --resume {shlex.quote(str(folder))}` resumes it"
            )
        metrics = read_json(folder / "metrics.json")
        if not isinstance(metrics, dict) or not {"confusion", "class_names", "protocol", "seconds"} <= set(metrics):
            raise InputError(f"{folder / 'metrics.json'} does not belong to a run; give the folder of a run")
        if "palette" not in metrics or not (folder / "maps.npz").is_file():
            raise InputError(f"{folder} was written by an earlier version (no maps.npz); train it again")
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
        """K class names; index i is label i + 1."""
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
        """The content of audit.json, see `leakage.examine`, with its "sentences"."""
        return read_json(self.folder / "audit.json")

    @cached_property
    def prediction(self) -> np.ndarray:
        """Labels 1..K, (H, W); 0 if a pixel was not predicted."""
        return self._load("prediction.npy")

    @cached_property
    def maps(self) -> dict[str, np.ndarray]:
        """The arrays of MAPS, and of FURTHER_MAPS if the run has them; see `write_maps`."""
        with self._load("maps.npz") as archive:
            try:
                return {name: archive[name] for name in (*MAPS, *set(FURTHER_MAPS).intersection(archive))}
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
        folder: the run's folder.
        maps: one for each name in MAPS, and any of FURTHER_MAPS, all (H, W): truth, train, validation and test are
            label maps, 0 for pixels that are not in them; confidence is the probability of the predicted class,
            float16 in [0, 1], 0 for pixels that were not predicted; false_colour is (H, W, 3) uint8; blocks holds the
            number of the piece of land that the intervals take each pixel to, int32 from 0; sets is (H, W, K) bool,
            the prediction sets.
    """
    if set(maps) - set(FURTHER_MAPS) != set(MAPS):
        raise ValueError(f"the maps of a run are {', '.join((*MAPS, *FURTHER_MAPS))}, not {', '.join(maps)}")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **maps)  # pyright: ignore[reportArgumentType] - no map is called allow_pickle
    write_atomically(folder / "maps.npz", buffer.getvalue())
