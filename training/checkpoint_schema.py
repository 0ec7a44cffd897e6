"""What a .pt file may hold: checked before memory is asked for, and before anything is computed with it."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limits import Budget, regular_file
from models import MODELS, create_model
from models.classical import Classical
from preprocessing import FIT_ON, NORMALIZATIONS
from pretreatment import parse_steps
from reporting.run_schema import RECORD
from reporting.schema import (
    COLOUR,
    COUNT,
    FRACTION,
    NAME,
    SCALAR,
    Rule,
    choice,
    fault_in,
    list_of,
    mapping,
    number,
    one_of,
    optional,
    record,
    whole,
)
from training.fitted import not_fitted
from utils import InputError

MOST_BANDS, MOST_CLASSES, LARGEST_PATCH = 100_000, 65_535, 999
FLOATS = {torch.float32, torch.float64}  # others, such as float8, are written by no version, and NumPy lacks some
OTHERS = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
NOT_STORED = 1_000_000_000  # bytes of a network's tensors that the file does not hold, such as scan orders


def tensor(n_axes: int | None = None, *, floating: bool = True) -> Rule:
    """Make the rule for a plain tensor of so many axes; with `floating` of finite floating-point numbers."""
    axes = "" if n_axes is None else f" of {n_axes} axes"
    words = f"a tensor{axes}{' of finite numbers' if floating else ''}"

    def find(value: Any, where: str) -> str:
        plain = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
        plain = plain and value.dtype in (FLOATS if floating else FLOATS | OTHERS) and not value.requires_grad
        if not plain or (n_axes is not None and value.ndim != n_axes):
            return f"{where} must be {words}"
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            return f"{where} is said to have {value.numel():,} values, and the file holds fewer"
        return f"{where} must be {words}" if floating and not bool(value.isfinite().all()) else ""

    return Rule(words, find)


def _weights(value: Any, where: str) -> str:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return f"{where} must be a table of tensors"
    found = (tensor(floating=_floats(each)).find(each, f"{where}.{name}"[:99]) for name, each in value.items())
    return next(filter(None, found), "")


def _floats(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.is_floating_point()


HISTORY = record({}, {"records": list_of(mapping(optional(one_of(number(), list_of(optional(number()))))))})
GENERATOR = Rule("the state of a generator", lambda value, where: _not_a_generator(value, where))
STATE = record(
    {
        "optimiser": record(
            {
                "state": Rule("a table", lambda value, where: _not_moments(value, where)),
                "param_groups": list_of(record({"params": list_of(COUNT), "lr": number(0)}), 1),
            }
        ),
        "schedule": record({"last_epoch": COUNT}),
        "generators": record({"loader": GENERATOR, "cpu": GENERATOR}),
        "history": record({"records": list_of(RECORD), "best_epoch": COUNT, "best_accuracy": number(-1, 1)}),
    }
)
PREPROCESSING = ("normalize", "fit_on", "offset", "scale", "mean", "components", "pretreatment", "usual")


def _not_a_generator(value: Any, where: str) -> str:
    """Say that a value is not the state of a random generator, or ""."""
    try:
        torch.Generator().set_state(value)
    except (TypeError, RuntimeError):
        return f"{where} must be the state of a generator"
    return ""


def _not_moments(value: Any, where: str) -> str:
    """Say what is wrong with what an optimiser keeps of each parameter, or ""."""
    if not isinstance(value, dict) or not all(isinstance(part, dict) for part in value.values()):
        return f"{where} must be a table of tables"
    parts = (part for each in value.values() for part in each.values() if isinstance(part, Tensor))
    return next(filter(None, (tensor().find(part, where) for part in parts)), "")


RULES = record(
    {
        "model": record(
            {
                "name": choice(MODELS),
                "n_bands": whole(1, MOST_BANDS),
                "n_classes": whole(1, MOST_CLASSES),
                "patch_size": whole(1, LARGEST_PATCH),
                "options": mapping(optional(one_of(SCALAR, list_of(whole(1, LARGEST_PATCH), 1, LARGEST_PATCH)))),
            }
        ),
        "preprocessing": record(
            {
                "normalize": choice(NORMALIZATIONS),
                "fit_on": choice(FIT_ON),
                "offset": tensor(1),
                "scale": tensor(1),
                "mean": optional(tensor(1)),
                "components": optional(tensor(2)),
            },
            {
                "usual": optional(tensor(2)),
                "pretreatment": optional(
                    record(
                        {
                            "spec": NAME,
                            "n_bands": whole(1, MOST_BANDS),
                            "references": list_of(tensor(1)),
                            "starts": list_of(COUNT, 1),
                            "axis": list_of(number()),
                        }
                    )
                ),
            },
        ),
        "class_names": list_of(NAME, 1, MOST_CLASSES),
        "palette": list_of(COLOUR, 1, MOST_CLASSES),
        "scene": NAME,
        "wavelengths": optional(list_of(number(0, above=True), 1, MOST_BANDS)),
        "border": choice(("mirror", "skip")),
        "state": record({"weights": Rule("a table of tensors", _weights)}, {"history": HISTORY}),
        "temperature": number(1e-6, 1e6),
        "p_right": optional(list_of(FRACTION, 1)),
        "context": optional(
            record(
                {
                    "size": whole(3, LARGEST_PATCH),
                    "spread": number(0, above=True),
                    "similarity": number(0, above=True),
                    "mean": tensor(1),
                    "components": tensor(2),
                }
            )
        ),
        "bands": optional(list_of(whole(0, MOST_BANDS), 1, MOST_BANDS)),
        "n_in_file": optional(whole(1, MOST_BANDS)),
        "nodata": optional(number()),
    }
)


def check_archive(path: Path) -> None:
    """Check what a .pt file claims to hold before it is unpacked.

    Raises:
        InputError: it is no regular file, is compressed, as PyTorch writes none, takes too much memory, or has a part
            whose checksum differs.
    """
    with zipfile.ZipFile(regular_file(path)) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise InputError(f"{path} is not a readable checkpoint: it is compressed; give one that MiM wrote")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise InputError(
                f"{path} is not a readable checkpoint: it claims more than its size; give one that MiM wrote"
            )
        if (damaged := archive.testzip()) is not None:
            raise InputError(f"{path} is damaged: the checksum of {damaged} differs; copy it again, or train again")
    Budget(path).take(path.stat().st_size)


def check_entries(path: Path, entries: dict[str, Any]) -> None:
    """Check type, range and size of a checkpoint's entries, see `checkpoint.Checkpoint`; InputError if one is wrong.

    That the weights fit the network is checked when it is made, see `check_network`.
    """
    if fault := fault_in(entries, RULES) or _misfit(entries):
        raise InputError(f"{path} is a damaged checkpoint: {fault}; give one that MiM wrote")


def _misfit(entries: dict[str, Any]) -> str:
    """Say which sizes of a checkpoint do not fit each other, or ""."""
    model, treatment = entries["model"], entries["preprocessing"]
    n_channels, pretreatment = len(treatment["offset"]), treatment.get("pretreatment")
    unknown = sorted({*treatment} - {*PREPROCESSING})
    if unknown:
        return f"preprocessing.{unknown[0]} is unknown"
    sizes: dict[str, tuple[Any, Any]] = {"preprocessing.scale": (treatment["scale"].shape, (n_channels,))}
    n_bands, n_out = n_channels, n_channels
    if pretreatment is not None:
        n_bands = pretreatment["n_bands"]
        steps = [step for part in parse_steps(pretreatment["spec"]) for step in part]
        widths = sum(2 if part[-1] == "brightness" else n_bands for part in parse_steps(pretreatment["spec"]))
        sizes["preprocessing.offset"] = (n_channels, widths)
        sizes["preprocessing.pretreatment.references"] = (len(pretreatment["references"]), steps.count("msc"))
        for i, reference in enumerate(pretreatment["references"]):
            sizes[f"preprocessing.pretreatment.references[{i}]"] = (reference.shape, (n_bands,))
        if {"continuum", "detrend"} & {*steps}:
            sizes["preprocessing.pretreatment.axis"] = (len(pretreatment["axis"]), n_bands)
        starts = pretreatment["starts"]
        if starts[0] or sorted({*starts}) != [*starts] or starts[-1] >= n_bands:
            return "preprocessing.pretreatment.starts must ascend from 0"
    if treatment["components"] is not None:
        n_out = treatment["components"].shape[1]
        sizes["preprocessing.components"] = (len(treatment["components"]), n_channels)
        mean = treatment["mean"]
        sizes["preprocessing.mean"] = (None if mean is None else mean.shape, (n_channels,))
    if treatment.get("usual") is not None:
        sizes["preprocessing.usual"] = (treatment["usual"].shape, (2, n_channels))
    if MODELS[model["name"]].looks_at != "location":
        sizes["model.n_bands"] = (model["n_bands"], n_out)
    sizes["class_names"] = (len(entries["class_names"]), model["n_classes"])
    sizes["palette"] = (len(entries["palette"]), model["n_classes"])
    for name in ("wavelengths", "bands"):
        if entries[name] is not None:
            sizes[name] = (len(entries[name]), n_bands)
    if (context := entries["context"]) is not None:
        sizes["context.mean"] = (context["mean"].shape, (n_out,))
        sizes["context.components"] = (len(context["components"]), n_out)
        if context["size"] % 2 == 0 or {*context} != {"size", "spread", "similarity", "mean", "components"}:
            return "context is not that of a network"
    if (bands := entries["bands"]) is not None:
        n_in_file = entries["n_in_file"] or 0
        if len({*bands}) < len(bands) or max(bands) >= n_in_file:
            return f"bands must be different ones of the {n_in_file} of the file"
    for name, (found, wanted) in sizes.items():
        if found != wanted:
            return f"{name} is of size {_size(found)}, and the other entries require {_size(wanted)}"
    return ""


def _size(size: Any) -> str:
    return " x ".join(map(str, size)) if isinstance(size, tuple) else str(size)


def check_network(model: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Check that a network can be made of a checkpoint's sizes and options, and that its weights fit it.

    It is made without memory first, so that absurd sizes ask for none.

    Raises:
        InputError: sizes, options or weights do not fit.
    """
    options, sizes = model["options"], {name: model[name] for name in ("n_bands", "n_classes", "patch_size")}
    name = model["name"]
    if (depth := options.get("depth", 1)) and isinstance(depth, int | float) and depth > len(weights):
        raise _refusal(name, f"it has {len(weights)} tensors, too few for a depth of {depth:,}")
    try:
        with torch.device("meta"):
            network = create_model(name, **sizes, **options)
    except (ValueError, TypeError, RuntimeError, OverflowError, MemoryError, AttributeError) as error:
        raise _refusal(name, (str(error).splitlines() or [type(error).__name__])[0][:200]) from error
    if isinstance(network, Classical):
        if fault := not_fitted(network, weights):
            raise _refusal(name, fault)
        return
    wanted = network.state_dict()
    if different := sorted({*wanted} ^ {*weights}):
        raise _refusal(name, f"{different[0][:99]!r} is {'missing' if different[0] in wanted else 'unknown'}")
    for part, value in wanted.items():
        if value.shape != weights[part].shape or value.dtype != weights[part].dtype:
            shapes = f"{_size(tuple(weights[part].shape))} where the network has {_size(tuple(value.shape))}"
            raise _refusal(name, f"{part!r} is {shapes or 'a number'}, or of another type")
    others = sum(buffer.nbytes for part, buffer in network.named_buffers() if part not in wanted)
    if others > NOT_STORED:
        raise _refusal(name, f"a patch size of {network.patch_size} needs {others / 1e9:,.1f} GB of scan orders")


def check_state(state: dict[str, Any], shapes: list[tuple[int, ...]]) -> None:
    """Check what training is resumed from, beside the weights.

    Args:
        state: see `engine.Steps.state`; that of a classifier that is fitted at once has no optimiser.
        shapes: of the network's parameters, in order.
    Raises:
        InputError: it is damaged, or that of another network.
    """
    fault = fault_in(state, STATE if "optimiser" in state else record({"history": HISTORY}), "state")
    if not fault and "optimiser" in state:
        moments, groups = state["optimiser"]["state"], state["optimiser"]["param_groups"]
        numbers = [number for group in groups for number in group["params"]]
        tensors = [(each, value) for each, part in moments.items() for value in part.values()]
        tensors = [(each, value) for each, value in tensors if isinstance(value, Tensor) and value.ndim]
        if numbers != [*range(len(shapes))] or not {*moments} <= {*numbers}:
            fault = f"state.optimiser is not that of {len(shapes)} parameters"
        elif any(tuple(value.shape) != shapes[each] for each, value in tensors):
            fault = "state.optimiser does not fit the network"
    if fault:
        raise InputError(fault)


def _refusal(name: str, reason: str) -> InputError:
    return InputError(f"the checkpoint does not hold the weights of {name}: {reason}; give one that MiM wrote")
