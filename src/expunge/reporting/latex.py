"""The comparison as LaTeX: plain `tabular` in `table`, no package needed, so that any paper takes it in."""

import re
from collections.abc import Sequence

from expunge.files.visible import visible
from expunge.reporting import comparison_tables
from expunge.reporting.standings import Standings
from expunge.scoring.band import AS_RETRAINED, CANNOT_TELL, DIFFERS, NOT_FINITE

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "[": "{[}", "]": "{]}",
}  # fmt: skip
MARKS = {
    AS_RETRAINED: "=", "short": "s", "beyond": "b", "lost": "l", "gained": "g", DIFFERS: "d", CANNOT_TELL: "?",
    NOT_FINITE: "",
}  # fmt: skip
LEGEND = ", ".join(f"{mark}: {word}" for word, mark in MARKS.items() if mark)
HEAD = """% Tables of a comparison. No package is needed; put \\input{comparison} where they belong.
% The letter above a value says where it lies beside the retrained models."""


def render(found: Standings) -> str:
    """One `table` per grid of the page, then the settings."""
    parts = [HEAD]
    for place, section in enumerate(comparison_tables.sections(found), start=1):
        grid = section.grid
        lines = [(_named(line), *(_cell(cell) for cell in line.cells)) for line in grid.lines]
        caption = f"{section.title}. {section.lead} In brackets 95\\,\\% intervals. {LEGEND}."
        headers = [escaped(header) for header in (grid.corner, *grid.headers)]
        parts.append(_table(headers, lines, caption.replace("&", r"\&"), f"tab:comparison-{place}"))
    costs = comparison_tables.costs(found)
    written = [[escaped(cell) for cell in line] for line in costs.lines]
    parts.append(_table([escaped(header) for header in costs.headers], written, costs.title, "tab:comparison-costs"))
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Plain text within a cell: no command, no column, no comment survives; hidden characters are named.

    Square brackets stand in braces: after a line end one would be read as an option.
    """
    line = re.sub(r"\s+", " ", visible(text)).strip()
    return "".join(SPECIAL.get(sign, sign) for sign in line)


def _table(headers: Sequence[str], lines: Sequence[Sequence[str]], caption: str, label: str) -> str:
    body = " \\\\\n".join(" & ".join(line) for line in lines)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\begin{{tabular}}{{l{'r' * (len(headers) - 1)}}}",
            r"\hline",
            " & ".join(headers) + r" \\",
            r"\hline",
            f"{body} \\\\",
            r"\hline",
            r"\end{tabular}",
            rf"\caption{{{caption}}}",
            rf"\label{{{label}}}",
            r"\end{table}",
        ]
    )


def _named(line: comparison_tables.GridLine) -> str:
    return f"{escaped(line.name)} ({escaped(line.detail)})" if line.detail else escaped(line.name)


def _cell(cell: comparison_tables.Cell) -> str:
    mark = f"$^{{\\mathrm{{{MARKS[cell.word]}}}}}$" if MARKS.get(cell.word) else ""
    interval = f" {escaped(f'[{cell.interval}]')}" if cell.interval else ""
    return f"{escaped(cell.value)}{mark}{interval}"
