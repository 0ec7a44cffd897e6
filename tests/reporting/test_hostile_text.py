"""Every text in a run's JSON files in turn replaced by a hostile one: it is refused, or shown as plain text."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from finished_run import write_run
from made_runs import change, make_run

from reporting.comparison.runs import compare
from reporting.comparison.tables import render_comparisons
from reporting.page.report import page
from reporting.run_folder import Run
from training.config import RunConfig
from utils import InputError

BODY = "1+1|<script>alert(1)</script>&\"'\n\n# x\r\\input{x} $ _ % ^ ~ { {{title}} \\\\ `<b>` [y](z) *s* --"
HOSTILE = (f"={BODY}", f"[{BODY}", f"\n|={BODY}")
FILES = ("config.json", "metrics.json", "audit.json")
OWN_LATEX = (r"% needs \usepackage{booktabs}", r"\,$\pm$\,", r"$\kappa \times 100$", "$n-1$", "$-$")
OWN_COMMANDS = {
    *("begin", "bottomrule", "caption", "centering", "end", "footnotesize", "label", "linewidth", "midrule", "par"),
    *("raggedright", "scriptsize", "setlength", "shortstack", "smallskip", "tabcolsep", "textasciicircum", "textbf"),
    *("textasciitilde", "textbackslash", "textbar", "textgreater", "textless", "textsuperscript", "toprule"),
}


class Elements(HTMLParser):
    """The elements of a page with the names of their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, *sorted(name for name, _ in attrs)))
        self.texts += [value for _, value in attrs if value]

    def handle_data(self, data):
        self.texts.append(data)


def leaves(value, at=()):
    """The places of all texts in nested values, and of all names of entries as ("name of", name)."""
    if isinstance(value, str):
        yield at
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(key, str):
            yield (*at, ("name of", key))
        yield from leaves(part, (*at, key))


def replaced(value, at, text):
    """A copy of nested values with another text at a place."""
    first, rest = at[0], at[1:]
    if isinstance(first, tuple):
        return {text if key == first[1] else key: part for key, part in value.items()}
    if isinstance(value, dict):
        return {key: replaced(part, rest, text) if rest else text for key, part in value.items() if key == first} | {
            key: part for key, part in value.items() if key != first
        }
    return [(replaced(part, rest, text) if rest else text) if i == first else part for i, part in enumerate(value)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two runs of different protocols and options, of which the first is changed."""
    home = tmp_path_factory.mktemp("hostile")
    write_run(home / "run", shape=(8, 9), n_epochs=2, faults=("training and test pixels touch",))
    context = {"kind": "gaussian", "size": 3, "spread": 1.0, "similarity": 1.0}
    others = {"border": "mirror", "spectral": "none", "context": context, "test_stride": 1, "restored_from": "a.pt"}
    protocol = json.loads((home / "run" / "metrics.json").read_text())["protocol"]
    protocol["model"]["options"] |= {"scan_backend": "auto", "kinds": ["one", "two"]}
    change(home / "run", protocol=protocol | others)
    make_run(home / "other", "CNN", 4, maps=False)
    make_run(home / "other", "MiM-v1", 4, maps=False)
    return home


def web_page(home):
    """The page of the changed run."""
    return page(Run.read(home / "run"), RunConfig.read(home / "run").command()).decode()


def tables(home):
    """The tables of the comparison by their format."""
    compared = compare([home / "run", home / "other"], mixed_protocols=True)
    return {format: render_comparisons(compared, format) for format in ("text", "markdown", "latex", "csv")}


def fault_in_html(text, plain):
    found, usual = Elements(text), Elements(plain)
    if {*found.elements} - {*usual.elements, ("code",)}:
        return f"new elements: { ({*found.elements} - {*usual.elements}) }"
    n_scripts = [sum(tag == "script" for tag, *_ in each.elements) for each in (found, usual)]
    return "" if n_scripts[0] == n_scripts[1] and text.count("<script") == plain.count("<script") else "a script"


def fault_in_markdown(text, _):
    if re.search(r"(?<!\\)<(?!sup>[a-z]</sup>|/sup>)", text):
        return "a tag"
    for block in text.split("\n\n"):
        lines = block.split("\n")
        bars = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines}
        if lines[0].startswith("| ") and len(bars) > 1:
            return f"rows with {sorted(bars)} bars"
        if lines[0].startswith("- ") and not all(line.startswith("- ") for line in lines):
            return "a note of several lines"
        if not lines[0].startswith(("| ", "- ")) and len(lines) > 1:
            return "a caption of several lines"
    return ""


def fault_in_latex(text, _):
    for own in OWN_LATEX:
        text = text.replace(own, "")
    text = re.sub(r"^% [A-Z].*$", "", text, flags=re.MULTILINE)  # notes without a table
    text = re.sub(r"\$\d\.\d\\times10\^\{-\d+\}\$", "", text)
    commands = {*re.findall(r"\\([A-Za-z]+)", text)}
    if commands - OWN_COMMANDS:
        return f"commands {sorted(commands - OWN_COMMANDS)}"
    text = re.sub(r"\\[&%$#_{}]", "", text)
    if found := re.search(r"[%#_$~^<>|\"]", text):
        return f"an unescaped {found[0]}"
    if re.search(r"\\\\\s*[\[*]", text):
        return "a bracket that a new row takes for its space"
    depth = 0
    for character in re.findall(r"[{}]", text):
        depth += 1 if character == "{" else -1
        if depth < 0:
            return "braces"
    for tabular in re.findall(r"\\begin\{tabular\}.*?\\bottomrule", text, re.DOTALL):
        if "\n\n" in tabular:
            return "a paragraph in a table"
        body = tabular.split("\\toprule\n")[1]
        rows = [line for line in body.split("\n") if line and not re.fullmatch(r"\\(midrule|bottomrule)", line)]
        if len({line.count("&") for line in rows}) > 1:
            return "rows of different lengths"
    return "braces" if depth else ""


def fault_in_csv(text, _):
    rows = list(csv.reader(io.StringIO(text), strict=True))
    if len({len(row) for row in rows}) > 1:
        return "rows of different lengths"
    numbers = re.compile(r"-?[\d.]+(e-?\d+)?")
    wrong = [cell for row in rows for cell in row if cell[:1] in tuple("=+-@\t\r\n") and not numbers.fullmatch(cell)]
    return f"a formula: {wrong[0]!r}" if wrong else ""


def fault_in_text(text, _):
    return "a line that begins with the text" if re.search(r"^(# x|\r)", text, re.MULTILINE) else ""


FAULTS = {
    "html": fault_in_html,
    "markdown": fault_in_markdown,
    "latex": fault_in_latex,
    "csv": fault_in_csv,
    "text": fault_in_text,
}


def faults_in(texts, plain):
    return {format: fault for format in texts if (fault := FAULTS[format](texts[format], plain))}


def test_the_unchanged_run_has_none_of_the_faults(home):
    plain = web_page(home)
    assert faults_in(tables(home) | {"html": plain}, plain) == {}


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_text_is_refused_or_shown_as_plain_text(home, name):
    path, plain, found, shown = home / "run" / name, web_page(home), [], set()
    content, refusals = path.read_text(), []
    made = [(HOSTILE[0], lambda: {"html": web_page(home)})]
    if name == "metrics.json":  # of which alone the tables are made
        made += [(hostile, lambda: tables(home)) for hostile in HOSTILE]
    try:
        for at in leaves(json.loads(content)):
            for hostile, make in made:
                path.write_text(json.dumps(replaced(json.loads(content), at, hostile)))
                try:
                    texts = make()
                except InputError as refusal:
                    refusals.append(str(refusal))
                    continue
                found += [(at, *fault) for fault in faults_in(texts, plain).items()]
                shown |= {format for format, text in texts.items() if "alert(1)" in text}
    finally:
        path.write_text(content)
    assert not found, f"{len(found)}: " + "\n".join(map(str, found[:20]))
    assert not [each for each in refusals if not 0 < len(each) < 1000 or "\n" in each]
    assert shown == ({*FAULTS} if name == "metrics.json" else {"html"})
