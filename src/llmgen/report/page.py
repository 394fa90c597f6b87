"""What every page is made of: one file that opens offline, on a phone and in the dark; all text is escaped.

Pictures are JSON that a few lines of script hand to plotly.js, which comes from the plotly package and is in the page.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

import msgspec
from plotly.offline import get_plotlyjs

from llmgen.errors import ConfigError
from llmgen.report.escaping import plain
from llmgen.report.plots import Figure


def document(title: str, body: str, figures: Mapping[str, Figure]) -> str:
    """The whole page. body: HTML, with a `picture` for each figure."""
    return _asset("page.html").format(
        title=text(title),
        style=_asset("page.css"),
        body=body,
        plotly=get_plotlyjs(),
        figures=_json(figures),
        script=_asset("page.js"),
    )


def write(path: Path, document: str) -> None:
    """Writes a page, atomically. Raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(document, encoding="utf-8")
    temporary.rename(path)


def write_for(option: str, path: Path, document: str) -> None:
    """`write` for a file that the user named: raises ConfigError where it cannot be written."""
    try:
        write(path, document)
    except OSError as error:
        raise ConfigError(f"{option} {str(path)!r}: cannot be written: {error.strerror}") from None


def _asset(name: str) -> str:
    return resources.files("llmgen.report").joinpath(name).read_text(encoding="utf-8")


def _json(value: Mapping[str, Figure]) -> str:
    """JSON that cannot end its script element, whatever is in it."""
    encoded = msgspec.json.encode(value).decode()
    return encoded.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


# -- pieces -----------------------------------------------------------------------------------------------------------


def text(value: object, limit: int | None = None) -> str:
    """Harmless HTML text of anything."""
    return html.escape(plain(str(value), limit))


def section(title: str, inner: str) -> str:
    return f"<section><h2>{text(title)}</h2>{inner}</section>" if inner else ""


def picture(place: str) -> str:
    return f'<div class="picture" id="{place}"></div>'


def note(told: str) -> str:
    return f'<p class="note">{text(told)}</p>'


def listed(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{text(one)}</li>' for one in lines)}</ul>" if lines else ""


def folded(title: str, inner: str) -> str:
    return f"<details><summary>{text(title)}</summary>{inner}</details>"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], marks: Sequence[str] | None = None) -> str:
    """A table that scrolls sideways by itself; marks: a class for each row. Empty without rows."""
    body = []
    for index, row in enumerate(rows):
        mark = f' class="{marks[index]}"' if marks and marks[index] else ""
        body.append(f"<tr{mark}>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>")
    if not body:
        return ""
    head = "".join(f"<th>{text(title)}</th>" for title in titles)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
