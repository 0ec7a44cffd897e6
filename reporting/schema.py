"""Rules that say what a value read from a file must be, and the first thing that is wrong with it."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

LARGEST = 2**53  # whole numbers up to here are the same as floating-point numbers
SHOWN = 40  # characters of a wrong value in a message


@dataclass(frozen=True)
class Rule:
    """What a value must be.

    Attributes:
        words: completes "must be".
        find: says what is wrong with a value at a place, or "".
    """

    words: str
    find: Callable[[Any, str], str]


def fault_in(value: Any, rule: Rule, where: str = "") -> str:
    """Say the first thing that is wrong with a value, as the start of a sentence; "" if nothing is."""
    return rule.find(value, where)


def _simple(words: str, fits: Callable[[Any], bool]) -> Rule:
    def find(value: Any, where: str) -> str:
        return "" if fits(value) else f"{where or 'it'} must be {words}, not {_shown(value)}"

    return Rule(words, find)


def _shown(value: Any) -> str:
    if isinstance(value, bool | int | float | str) or value is None:
        text = repr(value) if not isinstance(value, int) or abs(value) < 1e30 else "a number of many digits"
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return f"a {type(value).__name__}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(least: float = -math.inf, most: float = math.inf, *, above: bool = False) -> Rule:
    """Make the rule for a finite number from `least` to `most`; with `above` it is not `least` itself."""
    ends = [] if least == -math.inf else [f"{'above' if above else 'of at least'} {least:g}"]
    ends += [] if most == math.inf else [f"at most {most:g}"]

    def fits(value: Any) -> bool:
        inside = _is_number(value) and abs(value) < 1e300 and least <= value <= most
        return inside and math.isfinite(value) and not (above and value == least)

    return _simple(" ".join(["a number", " and ".join(ends)]).strip(), fits)


def whole(least: int = 0, most: int = LARGEST) -> Rule:
    """Make the rule for a whole number from `least` to `most`."""
    return _simple(
        f"a whole number from {least} to {most}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most,
    )


def choice(choices: Collection[Any]) -> Rule:
    """Make the rule for one of some texts."""
    return _simple(f"one of {', '.join(map(str, choices))}", lambda value: isinstance(value, str) and value in choices)


def optional(rule: Rule) -> Rule:
    """Make the rule for a value or nothing."""
    return Rule(f"{rule.words}, or null", lambda value, where: "" if value is None else rule.find(value, where))


def one_of(*rules: Rule) -> Rule:
    """Make the rule for a value that one of several rules lets pass."""
    words = " or ".join(rule.words for rule in rules)
    return _simple(words, lambda value: any(not rule.find(value, "") for rule in rules))


def list_of(rule: Rule, least: int = 0, most: int = LARGEST) -> Rule:
    """Make the rule for a list (or tuple) of so many values."""
    length = f" of {least}" if least == most else f" of at least {least}" if least else ""
    words = f"a list{length}, each {rule.words}"

    def find(value: Any, where: str) -> str:
        if not isinstance(value, list | tuple):
            return f"{where or 'it'} must be {words}, not {_shown(value)}"
        if not least <= len(value) <= most:
            return f"{where or 'it'} must be {words}, and has {len(value)}"
        return next(filter(None, (rule.find(each, f"{where}[{i}]") for i, each in enumerate(value))), "")

    return Rule(words, find)


def record(needed: Mapping[str, Rule], further: Mapping[str, Rule] | None = None) -> Rule:
    """Make the rule for entries by name: those that must be there, and those that may be; others are not looked at."""
    rules = dict(needed) | dict(further or {})

    def find(value: Any, where: str) -> str:
        if not isinstance(value, dict):
            return f"{where or 'it'} must be a table of entries, not {_shown(value)}"
        prefix = f"{where}." if where else ""
        if missing := [name for name in needed if name not in value]:
            return f"{prefix}{missing[0]} is missing"
        found = (rules[name].find(value[name], prefix + name) for name in rules if name in value)
        return next(filter(None, found), "")

    return Rule("a table of entries", find)


def mapping(rule: Rule, most: int = 10_000) -> Rule:
    """Make the rule for entries whose names are any texts."""

    def find(value: Any, where: str) -> str:
        if not isinstance(value, dict) or len(value) > most or not all(TEXT.find(name, "") == "" for name in value):
            return f"{where or 'it'} must be a table of entries, not {_shown(value)}"
        places = ((" ".join(f"{where}.{name}".split())[:99], each) for name, each in value.items())  # in one line
        return next(filter(None, (rule.find(each, place) for place, each in places)), "")

    return Rule("a table of entries", find)


def _encodes(value: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


TEXT = _simple("text", lambda value: isinstance(value, str) and _encodes(value))
NAME = _simple(
    "text of 1 to 200 characters", lambda value: isinstance(value, str) and _encodes(value) and 0 < len(value) <= 200
)
COLOUR = _simple(
    'a colour "#rrggbb"',
    lambda value: (
        isinstance(value, str) and len(value) == 7 and value[0] == "#" and {*value[1:].lower()} <= {*"0123456789abcdef"}
    ),
)
FLAG = _simple("true or false", lambda value: isinstance(value, bool))
SCALAR = one_of(FLAG, number(), TEXT)
FRACTION = number(0, 1)
COUNT = whole()
