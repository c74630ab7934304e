"""What every section of the report is made of: tiles, cards, tables, bars, and grids of pictures, as HTML."""

import base64
from html import escape
from pathlib import Path
from typing import Sequence

from ..evaluation.pictures import display_colours
from .run import Run


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def tile(value: str, *words: str) -> str:
    return f'<div class="tile"><b>{escape(value)}</b>' + "".join(f"<span>{escape(word)}</span>" for word in words) + "</div>"


def card(title: str, chart: str, key: Sequence[tuple[str, str]] = (), note: str = "") -> str:
    """A chart under its title, with the colours it uses; nothing where there is no chart."""
    if not chart:
        return ""
    names = "".join(f'<span><i style="background:{colour}"></i>{escape(word)}</span>' for word, colour in key)
    names = f'<div class="key">{names}</div>' if key else ""
    return f'<div class="card"><h3>{title}</h3>{chart}{names}' + (f'<div class="faint">{note}</div>' if note else "") + "</div>"


def cards(*content: str) -> str:
    return f'<div class="grid2">{"".join(content)}</div>' if any(content) else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Cells are HTML already; `numbers` are the columns that are set to the right."""
    kind = ['class="n"' if column in numbers else "" for column in range(len(head))]
    lines = ["".join(f"<th {kind[i]}>{cell}</th>" for i, cell in enumerate(head))] if any(head) else []
    lines += ["".join(f"<td {kind[i]}>{cell}</td>" for i, cell in enumerate(row)) for row in rows]
    return f'<div class="scroll"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def bar(value: float | None, colour: str) -> str:
    """A share as a bar and a number."""
    width = 0 if value is None else 100 * min(1, value)
    return f'<span class="bar"><i style="width:{width:.1f}%;background:{colour}"></i></span>{percent(value)}'


def colours_of(run: Run) -> list[str]:
    """By class, as in the pictures."""
    return ["#%02x%02x%02x" % tuple(colour) for colour in display_colours(run.classes).tolist()]


def embedded(path: Path, alt: str) -> str:
    """A picture as part of the page; an empty figure where it is missing."""
    if not path.is_file():
        return "<figure></figure>"
    kind = {".jpg": "jpeg", ".png": "png"}[path.suffix]
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img alt="{escape(alt)}" src="data:image/{kind};base64,{content}"></figure>'


def panel(run: Run, rows: Sequence[str], columns: Sequence[tuple[str, str]]) -> str:
    """A grid of pictures: a row for every image, a column (title, end of the file's name) for every way to see it."""
    if not rows:
        return ""
    heads = "".join(f'<div class="head">{escape(title)}</div>' for title, _ in columns)
    cells = "".join(
        embedded(run.folder / "panels" / f"{row}-{end}", f"{row}, {title}") for row in rows for title, end in columns
    )
    names = "".join(
        f'<span><i style="background:{c}"></i>{escape(n)}</span>' for n, c in list(zip(run.classes, colours_of(run)))[:40]
    )
    key = f'<div class="key">{names}</div>'
    style = f"grid-template-columns:repeat({len(columns)}, minmax(0, 210px))"
    return f'<div class="card"><div class="scroll"><div class="panel" style="{style}">{heads}{cells}</div></div>{key}</div>'
