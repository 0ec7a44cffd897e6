"""Everything that a run depends on, in one object: the command line makes it, and config.json holds it."""

import shlex
from dataclasses import Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from reporting.results import read_json
from reporting.run_schema import FACT
from reporting.schema import FLAG, TEXT, Rule, choice, fault_in, mapping, number, optional, whole
from splits.split import WITH_FOLDS
from training.effects import without_effect
from training.settings import Settings
from utils import InputError, start_command

RENAMED = {"weights": "eval_weights"}  # names in the config.json of version 0.1
DROPPED = {"runs"}  # of version 0.1: how many runs the command had
RULES = {  # of the values of a setting, by its type
    bool: FLAG,
    int: whole(-1, 2**32),
    float: number(),
    str: TEXT,
    Path: Rule("a path", lambda value, where: "" if isinstance(value, Path) else f"{where} must be a path"),
}
BEFORE = {"spectral": "none"}  # what runs did before there was a setting, if that is not its default


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """The settings of one run, as config.json and the command line have them."""

    def as_json(self) -> dict:
        """Give all settings as plain values, as config.json has them."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, content: object, source: Path) -> "RunConfig":
        """Undo `as_json`, given the content of a config.json of this version or of 0.1.

        Raises:
            InputError: it is not the content of a run's config.json; `source` is its name in the message.
        """
        refusal = InputError(f"{source} is not that of a run; give the folder of a run")
        if not isinstance(content, dict):
            raise refusal
        if {"arguments", "options", "seed"} <= set(content) and isinstance(content["arguments"], dict):
            entries: Any = {name: value for name, value in content["arguments"].items() if name not in DROPPED}
            entries |= {"model_options": content["options"], "seed": content["seed"]}
            entries = {RENAMED.get(name, name): value for name, value in entries.items()}
        else:
            entries = content.get("config")
        known = {each.name: each for each in fields(cls)}
        if not isinstance(entries, dict) or "dataset" not in entries:
            raise refusal
        if unknown := sorted(set(entries) - set(known)):
            names = " ".join(", ".join(unknown).split())[:200]  # in one line, whatever they hold
            raise InputError(f"{source} has settings that this version does not know: {names}")
        restored = {name: _restored(known[name], value) for name, value in (BEFORE | entries).items()}
        for name, value in restored.items():
            if fault := fault_in(value, _rule(known[name]), name):
                raise InputError(f"{source} is damaged: {fault}; give the folder of a run")
        return cls(**restored)

    @classmethod
    def read(cls, folder: Path) -> "RunConfig":
        """Read the settings of a run from its folder; InputError if it is not a run's."""
        return cls.from_json(read_json(folder / "config.json"), folder / "config.json")

    def command(self, processes: int = 1) -> str:
        """Give the command line that repeats the run in so many processes, over several lines of a shell."""
        left_out = {*without_effect(self.model, self.context)}
        if self.sampling_mode not in WITH_FOLDS:
            left_out |= {"folds", "fold", "buffer"}
        if self.context == "none":
            left_out |= {"context_size"}
        left_out |= {name for name in ("min_pixels", "drop_bands") if not getattr(self, name)}
        if self.sampling_mode != "spatial":
            left_out |= {"block_size"}
        if not self.fits_spectra:
            left_out |= {"fit_on"}
        flags = [
            _flag(each.name, getattr(self, each.name), each.default)
            for each in sorted(fields(self), key=lambda each: each.name not in ("model", "dataset"))
            if each.name not in {*left_out, "model_options"} and each.metadata.get("repeated", True)
        ]
        flags += [_flag(name, value, None) for name, value in self.model_options.items()]
        return " \\\n    ".join([start_command(processes), *filter(None, flags)])


def _restored(setting: Field, value: Any) -> Any:
    """A value of a field as JSON has it, as the field has it."""
    if setting.name == "model_options":
        if not isinstance(value, dict):
            return value
        return {name: tuple(each) if isinstance(each, list) else each for name, each in value.items()}
    if isinstance(value, str) and (setting.type is Path or Path in get_args(setting.type)):
        return Path(value)
    return setting.metadata.get("renamed_values", {}).get(value, value) if isinstance(value, str) else value


def _rule(setting: Field) -> Rule:
    """Make the rule for the values of a setting, from its type and its choices."""
    if setting.name == "model_options":
        return mapping(FACT)
    kinds = get_args(setting.type) or (setting.type,)
    choices = setting.metadata.get("choices")
    rule = choice(choices) if choices else next(RULES[kind] for kind in kinds if kind in RULES)
    return optional(rule) if type(None) in kinds else rule


def _flag(name: str, value, default) -> str:
    """A flag as it is typed; empty if it need not be."""
    if value is None or (value is False and default is not True):
        return ""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    values = value if isinstance(value, list | tuple) else [value]
    return " ".join([f"--{name}", *(shlex.quote(str(each)) for each in values)])
