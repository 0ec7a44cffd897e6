"""Read the folder of a finished run: for its pictures and its page, and to compare it with other runs."""

import io
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from limits import open_npz, read_text, regular_file
from reporting.results import read_json, scale_names
from reporting.run_schema import AUDIT, COMPARED, fault_in_array, fault_in_maps, fault_in_metrics, fault_in_records
from reporting.schema import fault_in
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
        run = cls.read_metrics(folder / "metrics.json")
        if not {"palette", "accuracy_by_distance"} <= {*run.metrics} or not (folder / "maps.npz").exists():
            raise InputError(f"{folder} was written by an earlier version (no maps.npz); train it again")
        return run

    @classmethod
    def read_metrics(cls, path: Path, *, compared: bool = False) -> "Run":
        """Read a run from metrics.json alone, perhaps to be compared with others; InputError if it is not a run's."""
        metrics = read_json(path)
        if fault := fault_in_metrics(metrics) or (fault_in(metrics, COMPARED) if compared else ""):
            raise InputError(f"{path} does not belong to a run, or is damaged: {fault}; give the folder of a run")
        return cls(path.parent, metrics)

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
        path = self.folder / "log.jsonl"
        try:
            records = [json.loads(line) for line in read_text(path).splitlines()]
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path} is missing or damaged; give the folder of a run") from error
        if fault := fault_in_records(records):
            raise InputError(f"{path} is damaged: {fault}; train the run again")
        return records

    @cached_property
    def audit(self) -> dict:
        """The content of audit.json, see `leakage.examine`, with its "sentences"."""
        audit = read_json(self.folder / "audit.json")
        if fault := fault_in(audit, AUDIT):
            raise InputError(f"{self.folder / 'audit.json'} is damaged: {fault}; train the run again")
        return audit

    @property
    def sentences(self) -> list[str]:
        """What the audit says."""
        if "sentences" not in self.audit:
            raise InputError(f"{self.folder / 'audit.json'} is damaged: sentences is missing; train the run again")
        return self.audit["sentences"]

    @cached_property
    def prediction(self) -> np.ndarray:
        """Labels 1..K, (H, W); 0 if a pixel was not predicted."""
        path = self.folder / "prediction.npy"
        labels = self._read(path, lambda: np.load(regular_file(path), mmap_mode="r", allow_pickle=False))
        if fault := fault_in_array(labels, "label", 0):
            raise InputError(f"{path} is damaged: it {fault}; train the run again")
        labels = np.array(labels)
        if labels.max() > len(self.class_names):
            raise InputError(f"{path} is damaged: it holds the label {labels.max()}; train the run again")
        if labels.shape != self.maps["test"].shape:
            raise InputError(f"{self.folder}: prediction.npy does not fit maps.npz; train the run again")
        return labels

    @cached_property
    def maps(self) -> dict[str, np.ndarray]:
        """The arrays of MAPS, and of FURTHER_MAPS if the run has them; see `write_maps`."""
        path = self.folder / "maps.npz"
        found = self._read(path, lambda: open_npz(path))
        if missing := [name for name in MAPS if name not in found]:
            raise InputError(f"{path} is damaged: {missing[0]} is missing; train the run again")
        names = (*MAPS, *(name for name in FURTHER_MAPS if name in found))
        maps = self._read(path, lambda: {name: found[name].read() for name in names})
        if fault := fault_in_maps(maps, len(self.class_names)):
            raise InputError(f"{path} is damaged: {fault}; train the run again")
        return maps

    def _read(self, path: Path, read: Callable):
        """Read a file; InputError if that fails."""
        try:
            return read()
        except Exception as error:  # a damaged file can fail in any way inside NumPy
            if isinstance(error, InputError) and path.exists():
                raise
            raise InputError(f"{path} is missing or damaged; train the run again") from error


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
