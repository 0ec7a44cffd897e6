"""The documentation: its commands run, its links lead somewhere, and it explains every flag and every key.

`python -m tests.test_docs` writes docs/flags.md, which lists the flags of main.py.
"""

import argparse
import csv
import importlib
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from torch.distributed.run import get_args_parser

import main
import utils
from cli.arguments import parse
from cli.flags import build_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "Datasets" / "README.md"]
LINKING = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
NEEDS = {"data", "gpu", "network", "minutes", "hours"}  # what keeps a command from being run here
MARK = re.compile(r"<!-- needs: (.+) -->")
STARTS = ("python main.py", "python -m ", "torchrun ", "make ", "examples/")
FLAGS_PAGE = ROOT / "docs" / "flags.md"
INTRODUCTION = """# Flags

All flags of `main.py`, made from its parser as [CONTRIBUTING.md](../CONTRIBUTING.md#documentation) describes;
`python main.py --help` shows the same. If a row has two names, the second is that of an earlier version, except that
`--no-flip_augmentation` switches the flag off.
"""


@dataclass(frozen=True)
class Command:
    """A command as a page gives it.

    Attributes:
        page: name of the page.
        words: the command, split as a shell does it.
        needs: what it needs, a subset of NEEDS.
        in_block: whether it is in a code block, and not in a table or in running text.
    """

    page: str
    words: tuple[str, ...]
    needs: frozenset[str]
    in_block: bool

    def __str__(self):
        return f"{self.page}: {shlex.join(self.words)}"


def _paragraphs(text):
    """Give the code blocks and the paragraphs of a page: language (None for a paragraph), text, and what is needed."""
    needs, language, lines = frozenset(), None, []
    for line in [*text.splitlines(), ""]:
        if line.startswith("```") and language is None:
            if lines:
                yield None, " ".join(lines), needs
            language, lines = line[3:], []
        elif line.startswith("```"):
            yield language, "\n".join(lines), needs
            needs, language, lines = frozenset(), None, []
        elif language is not None:
            lines.append(line)
        elif match := MARK.fullmatch(line):
            needs = frozenset(match[1].split(", "))
        elif line:
            lines.append(line)
        elif lines:
            yield None, " ".join(lines), needs
            needs, lines = frozenset(), []


def _split(text):
    """Split a line of a shell into commands, each a list of words; of a loop, one round."""
    words = shlex.shlex(text, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    commands, values, redirected = [[]], {}, False
    for word in words:
        if set(word) <= set(";&|"):
            commands, redirected = [*commands, []], False
        elif word == ">":
            redirected = True
        elif not redirected:
            commands[-1].append(values.get(word, word))
            if commands[-1][0] == "for" and len(commands[-1]) == 4:  # for NAME in VALUE
                values[f"${commands[-1][1]}"] = word
    for command in commands:
        while command and (command[0] == "do" or re.fullmatch(r"[A-Z_]+=.*", command[0])):
            command.pop(0)
    return [command for command in commands if " ".join(command).startswith(STARTS)]


def _commands():
    for page in PAGES:
        for language, text, needs in _paragraphs(page.read_text(encoding="utf-8")):
            in_block = language is not None
            if language in ("", "bash"):
                spans = text.replace("\\\n", " ").splitlines()
            else:
                spans = [] if in_block else re.findall(r"`([^`]+)`", text)
            for span in spans:
                if in_block or span.startswith(STARTS):
                    for words in _split(span):
                        yield Command(page.relative_to(ROOT).as_posix(), tuple(words), needs, in_block)


COMMANDS = list(_commands())
RUN = [command for command in COMMANDS if command.in_block and not command.needs]


def test_the_pages_hold_commands_and_use_the_words_for_what_they_need():
    assert len(COMMANDS) > 60 and len(RUN) >= 8
    assert {need for command in COMMANDS for need in command.needs} <= NEEDS


@pytest.mark.parametrize("command", [each for each in COMMANDS if not each.needs and not each.in_block], ids=str)
def test_a_command_in_a_table_or_in_the_text_is_marked_or_run_elsewhere(command):
    assert command.words in {other.words for other in RUN}


@pytest.mark.parametrize("page", sorted({command.page for command in RUN}))
def test_the_commands_of_a_page_run_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in [each for each in RUN if each.page == page]:
        assert command.words[:2] == ("python", "main.py"), f"mark what it needs: {command}"
        try:
            code = main.main(list(command.words[2:]))
        except SystemExit as exit:  # of --help
            code = exit.code
        assert code == 0, f"{command}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("command", sorted({each.words for each in COMMANDS}), ids=shlex.join)
def test_the_flags_of_a_command_parse(command, monkeypatch):
    program, *rest = command
    if program == "torchrun":
        assert "main.py" in rest
        get_args_parser().parse_args(rest)
        rest = rest[rest.index("main.py") :]
    if program == "make":
        text = (ROOT / "Makefile").read_text(encoding="utf-8")
        for word in rest:
            name, variable, _ = word.partition("=")
            assert (f"\n{name} ?=" if variable else f"\n{name}:") in text
    elif program.startswith("examples/"):
        assert (ROOT / program).stat().st_mode & 0o100
    elif rest[0] == "-m":
        _parse_as_module(rest[1], rest[2:], monkeypatch)
    elif rest[1:] == ["--help"]:
        with pytest.raises(SystemExit):
            parse(rest[1:])
    else:
        parse(rest[1:])


def _parse_as_module(name, words, monkeypatch):
    """Let a module parse the words and do no more."""

    class Parsed(Exception):
        pass

    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *_):
        parse_args(parser, words)
        raise Parsed

    module = importlib.import_module(name)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(Parsed):
        module.main()


def _anchors(path):
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_picture_is_there(page):
    text = page.read_text(encoding="utf-8")
    for link in [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'src="([^"]+)"', text)]:
        if not link.startswith(("http://", "https://")):
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), link
            assert not anchor or anchor in _anchors(target), link


def test_every_page_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT).as_posix() for page in LINKING if page.name != "README.md"]
    assert [page for page in pages if f"]({page})" not in text] == []


def _flags_page() -> str:
    """The content of docs/flags.md: a table for each group of flags."""
    parser, text = build_parser(), INTRODUCTION
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        title = group.title or ""
        if not actions or title in ("options", "optional arguments"):  # of these there is --help alone
            continue
        text += f"\n## {title[0].upper()}{title[1:]}\n\n| flag | values | meaning |\n|---|---|---|\n"
        for action in actions:
            names = ", ".join(f"`{name}`" for name in action.option_strings)
            values = "" if action.nargs == 0 else formatter._format_args(action, action.dest.upper())
            if action.choices is not None:
                values = ", ".join(f"`{choice}`" for choice in action.choices)
            cells = (names, values, formatter._expand_help(action))
            text += "| {} |\n".format(" | ".join(cell.replace("|", "\\|") for cell in cells))
    return text


def test_the_page_of_the_flags_is_up_to_date():
    found = FLAGS_PAGE.read_text(encoding="utf-8")
    assert found == _flags_page(), "`python -m tests.test_docs` writes docs/flags.md again"


def test_the_pages_name_no_flag_that_does_not_exist():
    known = set(build_parser()._option_string_actions)
    for page in PAGES:
        named = re.findall(r"`(--[a-zA-Z_-]+)", page.read_text(encoding="utf-8"))
        assert set(named) <= known, page


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a short run and of a mapping with its network."""
    home = tmp_path_factory.mktemp("runs")
    common = ["--cuda", "-1", "--output", str(home), "--test_stride", "16"]
    options = ["--model", "CNN", "--patch_size", "3", "--epoch", "1", "--visdom", "off"]
    assert main.main(["--dataset", "Simulated", *options, *common]) == 0
    folder = next(home.glob("CNN/Simulated/*"))
    assert main.main(["--predict", "Simulated", "--restore", str(folder / "last.pt"), *common]) == 0
    return folder


def _keys(content):
    """All keys, at any depth, that are words; the options of a model are flags and stand elsewhere."""
    if isinstance(content, list):
        return {key for item in content for key in _keys(item)}
    if not isinstance(content, dict):
        return set()
    below = {key for name, item in content.items() if name != "options" for key in _keys(item)}
    return {key for key in content if not key.isdigit()} | below


def _unexplained(keys, page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return {key for key in keys if f"`{key}`" not in text}


def test_every_key_and_column_of_a_run_is_explained(run):
    keys = {key for name in ("metrics", "audit") for key in _keys(json.loads((run / f"{name}.json").read_text()))}
    keys |= {key for line in (run / "log.jsonl").read_text().splitlines() for key in json.loads(line)}
    with (run.parents[2] / "results.csv").open(newline="") as file:
        keys |= set(next(csv.reader(file)))
    assert _unexplained(keys, "outputs.md") == set()


def test_every_setting_of_a_run_is_a_flag_with_an_explanation(run):
    content = json.loads((run / "config.json").read_text())
    assert set(content) == {"config", "protocol"}
    assert _unexplained({f"--{key}" for key in content["config"]} - {"--model_options"}, "flags.md") == set()


def test_every_file_of_a_run_is_explained(run):
    files = {path.name.removesuffix(".pdf").removesuffix(".png") for path in run.iterdir()}
    assert _unexplained(files, "outputs.md") == set()


def test_every_key_of_a_mapping_is_explained(run):
    mapping = next(run.parents[2].glob("predict/*/*/mapping.json"))
    content = {key: value for key, value in json.loads(mapping.read_text()).items() if key != "machine"}
    assert _unexplained(_keys(content), "inference.md") == set()


def test_the_score_of_location_alone_is_that_of_the_audit(real_data, capsys):
    if not (real_data / "IndianPines" / "TRAIN_GT.mat").is_file():
        pytest.skip(f"the fixed masks of Indian Pines are not in {real_data}")
    assert main.main(["--audit", "--dataset", "IndianPines", "--folder", str(real_data)]) == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("Location alone: ")]
    (score,) = re.findall(r"\d+\.\d+ %", line)
    for page in ("docs/results.md", "docs/splits.md", "README.md"):
        assert score in (ROOT / page).read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [utils.VERSION]
    assert re.findall(r"^## (\S+)", changes, re.MULTILINE)[0] == utils.VERSION


def test_the_lock_has_a_version_that_fits_every_requirement():
    locked = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    locked = {name.lower(): version for name, version in locked.items()}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    newer = {"python_version": "3.11"}  # than the oldest Python
    for requirement in wanted:
        if requirement.marker is None or requirement.marker.evaluate(newer):
            assert requirement.specifier.contains(locked[requirement.name.lower()]), requirement
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"ruff==([\d.]+)", hooks)) == {locked["ruff"]}


if __name__ == "__main__":
    FLAGS_PAGE.write_text(_flags_page(), encoding="utf-8")


def test_the_tables_of_results_are_those_of_the_kept_runs():
    from benchmarks.science import PAGE, page

    assert "made from fixed_ours.json" in page() and page() == PAGE.read_text(encoding="utf-8")
