"""A table of numbers as text for a terminal, as Markdown, or as LaTeX (booktabs)."""

import re
import textwrap
from dataclasses import dataclass, field, replace

HEAD = -1  # row number of a column's head
GAP = 2  # characters between columns
LATEX_WIDTH = 145  # characters of \scriptsize on the seven inches of a page of two columns
LATEX_COLUMN = 68  # ... on one of its columns
LATEX_LARGE = 80  # ... of \footnotesize on the narrowest page, 345 pt
MARKDOWN_WIDTH = 150
LEAST_WORDS = 8  # characters that a column of words keeps at least on a narrow terminal
LINE_ENDS = re.compile(r"\s*[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        head: lines of its head.
        cells: a text per row; "+-" between mean and standard deviation.
        words: whether it holds words, which are aligned to the left, instead of numbers.
        best: rows in which this column is the best.
        marks: letters of footnotes by row.
    """

    head: tuple[str, ...]
    cells: tuple[str, ...]
    words: bool = False
    best: frozenset[int] = frozenset()
    marks: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: above the table.
        label: LaTeX refers to the table by it.
        columns: the first `n_fixed` are repeated if the others do not fit on the page side by side.
        n_fixed: number of repeated columns.
        rules: rows above which a line is drawn.
        best_of: what each best value is the best of, such as "row".
        notes: below the table, one sentence each.
    """

    title: str
    label: str
    columns: tuple[Column, ...]
    n_fixed: int = 1
    rules: tuple[int, ...] = ()
    best_of: str = "row"
    notes: tuple[str, ...] = ()

    def caption(self, legend: str) -> str:
        """Write the title, and how the best values are marked if there are any."""
        return _sentences(
            self.title, legend.format(self.best_of) if any(column.best for column in self.columns) else ""
        )


def render_table(table: Table, format: str, width: int) -> str:
    """Render a table.

    Args:
        table: the table.
        format: text, markdown or latex.
        width: of the terminal in characters, for text.
    """
    return {"text": _text, "markdown": _markdown, "latex": _latex}[format](_of_lines(table), page_width(format, width))


def _of_lines(table: Table) -> Table:
    """Replace line ends in names, which would break a table's rows, by spaces."""
    columns = [
        replace(column, head=tuple(map(_line, column.head)), cells=tuple(map(_line, column.cells)))
        for column in table.columns
    ]
    return replace(table, title=_line(table.title), columns=tuple(columns), notes=tuple(map(_line, table.notes)))


def _line(text: str) -> str:
    return LINE_ENDS.sub(" ", text)


def page_width(format: str, width: int) -> int:
    """Return how many characters fit side by side in a format; for text it is the terminal's `width`."""
    return {"markdown": MARKDOWN_WIDTH, "latex": LATEX_WIDTH}.get(format, width)


def column_groups(table: Table, width: int) -> list[list[Column]]:
    """Divide the columns into as few groups as the width allows, of about equal size, each with the fixed columns."""
    fixed, others = table.columns[: table.n_fixed], table.columns[table.n_fixed :]
    most = len(others)
    while True:
        groups, room = [], 0
        for column in others:
            room -= _width(column) + GAP
            if room < 0 or not groups or len(groups[-1]) == most + len(fixed):
                groups.append(list(fixed))
                room = width - sum(_width(each) + GAP for each in fixed) - _width(column)
            groups[-1].append(column)
        even = -(-len(others) // len(groups)) if groups else most
        if even == most:
            return groups
        most = even


def _width(column: Column) -> int:
    return max(map(len, (*_head(column), *_cells(column))), default=0)


def _head(column: Column) -> list[str]:
    mark = f" ({column.marks[HEAD]})" if HEAD in column.marks else ""
    return [*column.head[:-1], column.head[-1] + mark]


def _cells(column: Column) -> list[str]:
    """The cells with their marks and stars."""
    star = {True: "*", False: " "} if column.best else {False: ""}
    return [
        cell + (f" ({column.marks[i]})" if i in column.marks else "") + star[i in column.best]
        for i, cell in enumerate(column.cells)
    ]


def _sentences(*sentences: str) -> str:
    return " ".join(sentence[:1].upper() + sentence[1:].rstrip(".") + "." for sentence in sentences if sentence)


# Text


def _text(table: Table, width: int) -> str:
    width = max(width, 30)
    lines = textwrap.wrap(table.caption("* is the best mean of its {}"), width, break_on_hyphens=False)
    for columns in column_groups(table, width):
        lines += ["", *_text_part(columns, table.rules, width)]
    if table.notes and lines:
        lines.append("")
    for note in table.notes:
        lines += textwrap.wrap(
            _sentences(note), width, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
        )
    return "\n".join(lines)


def _text_part(columns: list[Column], rules: tuple[int, ...], width: int) -> list[str]:
    sizes = [_width(column) for column in columns]
    for i, column in enumerate(columns):
        if column.words:
            sizes[i] = min(sizes[i], max(LEAST_WORDS, width - sum(sizes) - GAP * (len(sizes) - 1) + sizes[i]))
    n_head = max(len(column.head) for column in columns)
    filled = [[""] * (n_head - len(column.head)) + _head(column) + _cells(column) for column in columns]
    lines = []
    for row in zip(*filled, strict=True):
        cells = []
        for column, size, cell in zip(columns, sizes, row, strict=True):
            cell = cell if len(cell) <= size else cell[: size - 1] + "."
            cells.append(f"{cell:<{size}}" if column.words else f"{cell:>{size}}")
        lines.append((" " * GAP).join(cells).rstrip())
    line = "-" * (sum(sizes) + GAP * (len(sizes) - 1))
    for place in sorted((n_head, *(n_head + row for row in rules)), reverse=True):
        lines.insert(place, line)
    return lines


# Markdown


def _markdown(table: Table, width: int) -> str:
    blocks = [_escape_markdown(table.caption("the best mean of each {} is in bold"))]
    for columns in column_groups(table, width):
        heads = [_escape_markdown(" ".join(column.head)) + _sup(column, HEAD) for column in columns]
        dashes = ["---" if column.words else "---:" for column in columns]
        body = [[_markdown_cell(column, row) for column in columns] for row in range(len(columns[0].cells))]
        blocks.append("\n".join(f"| {' | '.join(row)} |" for row in (heads, dashes, *body)))
    if table.notes:
        blocks.append("\n".join(f"- {_escape_markdown(_sentences(note))}" for note in table.notes))
    return "\n\n".join(block for block in blocks if block)


def _markdown_cell(column: Column, row: int) -> str:
    cell = _escape_markdown(column.cells[row])
    return (f"**{cell}**" if row in column.best else cell) + _sup(column, row)


def _sup(column: Column, row: int) -> str:
    return f"<sup>{column.marks[row]}</sup>" if row in column.marks else ""


def _escape_markdown(text: str) -> str:
    text = re.sub(r"([\\`*_|<>\[\]&#~])", r"\\\1", text)
    return text.replace(" +- ", " ± ").replace("kappa x 100", "kappa × 100")


# LaTeX


def _latex(table: Table, width: int) -> str:
    if not table.columns:
        return "\n".join(f"% {_sentences(note)}" for note in table.notes)
    groups = column_groups(table, width)
    return "\n\n".join(_latex_part(table, columns, i + 1, len(groups)) for i, columns in enumerate(groups))


def _latex_part(table: Table, columns: list[Column], part: int, n_parts: int) -> str:
    room = sum(_width(column) + GAP for column in columns)
    place = "table" if room <= LATEX_COLUMN else "table*"
    size = r"\footnotesize" if LATEX_COLUMN < room <= LATEX_LARGE else r"\scriptsize"
    caption = _escape_latex(table.caption("the best mean of each {} is in bold"))
    if n_parts > 1:
        caption += f" Part {part} of {n_parts}."
    label = table.label + (f"-{part}" if n_parts > 1 else "")
    heads = [_latex_head(column) for column in columns]
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{{place}}}[t]",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{{label}}}",
        r"\smallskip",
        size,
        r"\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{@{{}}{''.join('l' if column.words else 'r' for column in columns)}@{{}}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        r"\midrule",
    ]
    for row in range(len(columns[0].cells)):
        if row in table.rules:
            lines.append(r"\midrule")
        lines.append(" & ".join(_latex_cell(column, row) for column in columns) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        notes = [
            re.sub(r"^\(([a-z])\)", r"\\textsuperscript{\1}", _escape_latex(_sentences(note))) for note in table.notes
        ]
        lines += ["", r"\smallskip", r"\begin{minipage}{\linewidth}", r"\raggedright", size]
        lines += [rf"{note}\par" for note in notes] + [r"\end{minipage}"]
    return "\n".join([*lines, rf"\end{{{place}}}"])


def _latex_head(column: Column) -> str:
    lines = [_escape_latex(line) for line in column.head]
    lines[-1] += _latex_mark(column, HEAD)
    if len(lines) == 1:
        return lines[0]
    return rf"\shortstack[{'l' if column.words else 'r'}]{{" + r" \\ ".join(lines) + "}"


def _latex_cell(column: Column, row: int) -> str:
    cell = _escape_latex(column.cells[row])
    if not column.words:
        cell = re.sub(r"(\d\.\d)e-0?(\d+)", r"$\1\\times10^{-\2}$", cell)
        cell = re.sub(r"(?<=\d)-(?=\d)", "--", re.sub(r"^-(?=\d)", "$-$", cell))
    return (rf"\textbf{{{cell}}}" if row in column.best else cell) + _latex_mark(column, row)


def _latex_mark(column: Column, row: int) -> str:
    return rf"\textsuperscript{{{column.marks[row]}}}" if row in column.marks else ""


def _escape_latex(text: str) -> str:
    text = "".join(LATEX.get(character, character) for character in text)
    for plain, mathematical in (
        (" +- ", r"\,$\pm$\,"),
        ("kappa x 100", r"$\kappa \times 100$"),
        ("(n-1)", "($n-1$)"),
    ):
        text = text.replace(plain, mathematical)
    return re.sub(r"^(?=[\[*])", "{}", text)  # after a row's end these would belong to the command that ends it
