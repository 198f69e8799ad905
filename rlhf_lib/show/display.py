"""Put figures, tables and texts on a notebook's page: readable in light and dark themes, with alternative text."""

import hashlib
import io
import numbers
import re
from collections.abc import Mapping, Sequence
from html import escape

from IPython.display import display
from matplotlib import rc_context
from matplotlib.figure import Figure

from rlhf_lib.runs import mean_interval

INK = "var(--jp-content-font-color1, currentColor)"  # the theme's text colour, in JupyterLab and in exported HTML
FAINT = "color-mix(in srgb, currentColor 25%, transparent)"
# What every part of a figure inherits; DejaVu Sans is the font that the layout was measured with.
ROOT_STYLE = (
    f"fill: {INK}; font-family: 'DejaVu Sans', Verdana, sans-serif; stroke-linejoin: round; stroke-linecap: butt; "
    "max-width: 100%; height: auto"
)

Cell = str | numbers.Real | None


def figure(fig: Figure, alt: str) -> None:
    """Show a figure as inline SVG, with `alt` read out in its place where it cannot be seen.

    Whatever is black in the figure takes the theme's text colour, and the background is left out; so text on a coloured
    patch should be dark grey or white, never black.
    """
    display({"text/html": figure_html(fig, alt), "text/plain": f"[figure: {alt}]"}, raw=True)


def figure_html(fig: Figure, alt: str) -> str:
    """The `<svg>` element that `figure` shows. The same figure gives the same text. ValueError where `alt` is empty."""
    if not alt.strip():
        raise ValueError("a figure needs alt text: say in a sentence what a reader should see in it")
    text, box = io.StringIO(), None if fig.get_layout_engine() else "tight"
    with rc_context({"svg.hashsalt": "rlhf", "svg.fonttype": "none"}):
        fig.savefig(text, format="svg", transparent=True, bbox_inches=box, metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    prefix = "f" + hashlib.sha256((svg + alt).encode()).hexdigest()[:8]  # ids must not clash between a page's figures
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", svg)
    svg = svg.replace("#000000", INK)
    svg = re.sub(r"\s*<defs>\s*<style.*?</defs>", "", svg, count=1, flags=re.DOTALL)  # it would style the whole page
    svg = re.sub(r"; font-family: 'DejaVu Sans', 'Bitstream[^;\"]*", "", svg)
    width, height = (float(re.search(rf'<svg[^>]*\b{side}="([\d.]+)pt"', svg)[1]) for side in ("width", "height"))
    view = f'viewBox="0 0 {width:g} {height:g}"'
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view} role="img" '
        f'aria-label="{escape(alt)}" style="{ROOT_STYLE}; width: {width * 4 / 3:.0f}px">'
        f"<title>{escape(alt)}</title>"
    )
    return opening + svg[svg.index(">", svg.index("<svg")) + 1 :]


def table(
    rows: Sequence[Mapping[str, Cell] | Sequence[Cell]],
    columns: Sequence[str] | None = None,
    caption: str = "",
    formats: Mapping[str, str] | None = None,
) -> None:
    """Show a table. Rows are dicts, or sequences with `columns`; the first column names the row.

    `formats` gives a column's numbers a format, such as {"KL": ".2f"}; otherwise whole numbers are shown as they are
    and others with three decimals.
    """
    columns = list(rows[0]) if columns is None else list(columns)
    cells = [[row.get(name) if isinstance(row, Mapping) else row[i] for i, name in enumerate(columns)] for row in rows]
    formats = dict(formats or {})
    shown = [[_cell(value, formats.get(name, "")) for name, value in zip(columns, row, strict=True)] for row in cells]
    numeric = [all(isinstance(row[i], numbers.Real | None) for row in cells) for i in range(len(columns))]
    _show_table(columns, shown, numeric, caption)


def text_samples(
    prompts: Sequence[str],
    completions: Mapping[str, Sequence[str]],
    scores: Mapping[str, Sequence[float]] | None = None,
    caption: str = "",
) -> None:
    """Show completions side by side: a row a prompt, a column for each name (such as base, SFT, RLHF).

    `scores` adds a number under each completion, by the same names.
    """
    columns, shown = ["prompt", *completions], []
    for i, prompt in enumerate(prompts):
        row = [prompt]
        for name, texts in completions.items():
            row.append(
                texts[i].strip() + (f"\n[{_cell(scores[name][i], '+.2f')}]" if scores and name in scores else "")
            )
        shown.append(row)
    _show_table(columns, shown, [False] * len(columns), caption)


def interval(values: Sequence[float], digits: int = 2) -> str:
    """The mean of several seeds' values with its 95 % interval (`runs.mean_interval`), as "0.36 (0.29 to 0.43)"."""
    return "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(*mean_interval(values), d=digits).replace("-", "−")


def number(value: float) -> str:
    """A number as a table shows it: 12, 0.125, 2.1e-05, 1,234,567."""
    if isinstance(value, bool) or isinstance(value, numbers.Integral):
        return str(value) if isinstance(value, bool) else f"{int(value):,}"
    if value != 0 and abs(value) < 5e-4:
        return f"{value:.1e}"
    return f"{value:,.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def _cell(value: Cell, spec: str) -> str:
    if value is None:
        return "–"
    if isinstance(value, numbers.Real) and not isinstance(value, str):
        value = format(value, spec) if spec else number(value)
    value = re.sub(r"^-(?=0\.?0*$)", "", str(value))  # rounded to zero: no sign
    return re.sub(r"(?<!\w)-(?=\.?\d)", "−", value)  # a real minus, as on the axes


def _table(columns, shown, numeric, caption) -> str:
    def cell(text, i, head=""):
        align = "right; font-variant-numeric: tabular-nums" if numeric[i] else "left"
        style = f"text-align: {align}; vertical-align: top; white-space: pre-line; padding: 0.3em 0.7em"
        name = "th" if head else "td"
        return f'<{name}{head} style="{style}">{escape(text)}</{name}>'

    top = "".join(cell(name, i, ' scope="col"') for i, name in enumerate(columns))
    body = ""
    for row in shown:
        cells = "".join(cell(text, i, "" if i else ' scope="row"') for i, text in enumerate(row))
        body += f'<tr style="background: none; border-top: 1px solid {FAINT}">{cells}</tr>'
    title = f'<caption style="text-align: left; padding: 0.3em 0.7em">{escape(caption)}</caption>' if caption else ""
    return (
        f'<table style="color: {INK}; border-collapse: collapse; font-size: 1em; margin: 0.5em 0">{title}'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    )


def _show_table(columns, shown, numeric, caption) -> None:
    lines = [caption] * bool(caption) + [" | ".join(row) for row in [columns, *shown]]
    html = _table(columns, shown, numeric, caption)
    display({"text/html": html, "text/plain": "\n".join(lines)}, raw=True)
