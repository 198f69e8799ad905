"""Figures from data. Every function takes plain data and returns a `matplotlib.figure.Figure`; none touches pyplot.

Black stands for the theme's text colour (see `display.figure`). The other colours follow Okabe and Ito (2008), a little
darkened where needed so that each has a contrast of 3 : 1 on white and on the dark theme's #111111; lines differ in
their dashes as well as in colour.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from matplotlib import cm, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_lib.runs import mean_interval

BLUE, ORANGE, GREEN, PURPLE, RED, SKY = "#2b7fbf", "#c07d00", "#009e73", "#c06a9a", "#d55e00", "#3a96cc"
PALETTE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
INK = "#000000"  # becomes the theme's text colour
ON_COLOUR = "#111111"  # text on a light patch

Series = Mapping[str, object]  # name -> y, (x, y), or (x, runs) with runs a list of ys or a [runs, points] tensor


def style() -> AbstractContextManager:
    """The course's settings, as a context or a decorator: `@style()` above a function that draws."""
    return rc_context(
        {
            "font.size": 12,
            "axes.titlesize": 13,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": INK,
            "grid.alpha": 0.12,
            "legend.frameon": False,
            "legend.fontsize": 11,
            "xtick.labelsize": 11,
            "ytick.labelsize": 11,
            "lines.linewidth": 2,
            "mathtext.fontset": "dejavusans",
        }
    )


@style()
def new_figure(xlabel: str = "", ylabel: str = "", title: str = "", size=(7.0, 3.6), panels: int = 1):
    """An empty figure in the course's style: (figure, axes), or (figure, list of axes) for several panels."""
    fig = Figure(figsize=size, layout="constrained")
    axes = [fig.add_subplot(1, panels, i + 1) for i in range(panels)]
    for ax in axes:
        ax.set_xlabel(xlabel)
        ax.set_ylabel(ylabel)
    axes[0].set_title(title, loc="left")
    return fig, (axes[0] if panels == 1 else axes)


@style()
def curves(
    series: Series,
    xlabel: str,
    ylabel: str,
    title: str = "",
    exact: Mapping[str, float] | None = None,
    size=(7.0, 3.6),
) -> Figure:
    """Lines over a common x; several runs of one name become their mean with a 95 % interval (Student's t) shaded.

    `series`: name -> y, (x, y) or (x, runs), runs being several y of equal length. `exact` adds level lines.
    """
    fig, ax = new_figure(xlabel, ylabel, title, size)
    whole = True
    for i, (name, data) in enumerate(series.items()):
        x, runs = _runs(data)
        whole = whole and all(value.is_integer() for value in x)
        colour, dashes = PALETTE[i % len(PALETTE)], DASHES[i % len(DASHES)]
        if len(runs) == 1:
            ax.plot(x, runs[0], color=colour, linestyle=dashes, label=name)
            continue
        middle, low, high = zip(*(mean_interval(column) for column in zip(*runs, strict=True)), strict=True)
        ax.plot(x, middle, color=colour, linestyle=dashes, label=name)
        ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.xaxis.get_major_locator().set_params(integer=whole)  # steps, episodes: no tick at 2.5
    _level_lines(ax, exact)
    return _legend(fig, ax, len(series) + len(exact or {}))


@style()
def scatter(points: Mapping[str, tuple], xlabel: str, ylabel: str, title: str = "", size=(7.0, 3.6)) -> Figure:
    """Points by name -> (x, y); each name has its own marker as well as its own colour."""
    fig, ax = new_figure(xlabel, ylabel, title, size)
    for i, (name, (x, y)) in enumerate(points.items()):
        ax.plot(_list(x), _list(y), "os^Dvx"[i % 6], color=PALETTE[i % len(PALETTE)], label=name, alpha=0.8)
    return _legend(fig, ax, len(points))


@style()
def bars(
    values: Mapping[str, object],
    label: str,
    title: str = "",
    exact: Mapping[str, float] | None = None,
    horizontal: bool = False,
    size=(7.0, 3.6),
) -> Figure:
    """A bar for each name: a number, (mean, low, high), or a list of runs, shown as mean and 95 % interval."""
    fig, ax = new_figure(title=title, size=size)
    triples = [_triple(value) for value in values.values()]
    middle = [mean for mean, _, _ in triples]
    errors = [[mean - low for mean, low, _ in triples], [high - mean for mean, _, high in triples]]
    errors = errors if any(map(any, errors)) else None
    places, colours = range(len(values)), [PALETTE[i % len(PALETTE)] for i in range(len(values))]
    if horizontal:
        ax.barh(places, middle, xerr=errors, color=colours, ecolor=INK, capsize=4)
        ax.set_yticks(places, list(values))
        ax.invert_yaxis()
        ax.set_xlabel(label)
    else:
        ax.bar(places, middle, yerr=errors, color=colours, ecolor=INK, capsize=4, width=0.7)
        ax.set_xticks(places, list(values))
        ax.set_ylabel(label)
    ax.grid(False, axis="y" if horizontal else "x")
    _level_lines(ax, exact, vertical=horizontal)
    return _legend(fig, ax, len(exact or {}), at_least=1)


@style()
def loglog(
    series: Series, xlabel: str, ylabel: str, title: str = "", slope: float | None = None, size=(7.0, 3.6)
) -> Figure:
    """Points and lines on two logarithmic axes; `slope` adds a guide of that power through the first series' start."""
    fig, ax = new_figure(xlabel, ylabel, title, size)
    for i, (name, data) in enumerate(series.items()):
        x, runs = _runs(data)
        y = torch.tensor(runs, dtype=torch.float64).mean(0).tolist()
        ax.plot(x, y, "os^Dvx"[i % 6], linestyle=DASHES[i % len(DASHES)], color=PALETTE[i % len(PALETTE)], label=name)
        if i == 0 and slope is not None:
            guide, name = [y[0] * (v / x[0]) ** slope for v in x], f"slope {_text(slope, 'g')}"
            ax.plot(x, guide, color=INK, linewidth=1, label=name)
    ax.set_xscale("log")
    ax.set_yscale("log")
    return _legend(fig, ax, len(series) + (slope is not None))


@style()
def reliability(predicted, happened, bins: int = 10, title: str = "", size=(4.6, 4.2)) -> Figure:
    """Is a probability of 0.8 right 8 times in 10? The share that happened against the mean prediction, by bins of
    equal count.

    predicted [N] are probabilities, happened [N] outcomes (0, 1 or, for a tie, 0.5).
    """
    fig, ax = new_figure("predicted probability", "share that happened", title, size)
    order = torch.as_tensor(predicted).float().argsort()
    predicted, happened = torch.as_tensor(predicted).float()[order], torch.as_tensor(happened).float()[order]
    chunks = list(zip(predicted.chunk(bins), happened.chunk(bins), strict=True))
    ax.plot([0, 1], [0, 1], color=INK, linewidth=1, label="perfectly calibrated")
    x, y = [p.mean().item() for p, _ in chunks], [h.mean().item() for _, h in chunks]
    errors = [1.96 * (m * (1 - m) / len(h)) ** 0.5 for m, (_, h) in zip(y, chunks, strict=True)]
    ax.errorbar(x, y, errors, fmt="o-", color=BLUE, capsize=3, label="measured, with 95 % bars")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    return _legend(fig, ax, 2)


@style()
def histogram(samples: Mapping[str, object], xlabel: str, title: str = "", bins: int = 30, size=(7.0, 3.6)) -> Figure:
    """Shares by value, outlined, over common bins; name -> sample."""
    fig, ax = new_figure(xlabel, "share", title, size)
    lists = {name: _list(values) for name, values in samples.items()}
    low, high = min(map(min, lists.values())), max(map(max, lists.values()))
    high = high if high > low else low + 1
    edges = [low + (high - low) * i / bins for i in range(bins + 1)]
    for i, (name, values) in enumerate(lists.items()):
        share, colour = [1 / len(values)] * len(values), PALETTE[i % len(PALETTE)]
        ax.hist(values, edges, weights=share, color=colour, alpha=0.25)
        ax.hist(values, edges, weights=share, color=colour, histtype="step", linestyle=DASHES[i % 6], label=name, lw=2)
    return _legend(fig, ax, len(samples))


@style()
def words_under_sentence(
    words: Sequence[str],
    values: Sequence[float] | Mapping[str, Sequence[float]],
    ylabel: str = "",
    title: str = "",
    spec: str = "+.2f",
    log: bool = False,
) -> Figure:
    """A value for each word of a sentence, as a bar that stands on its word. Several named rows share words and scale.

    `spec` formats the numbers on the bars. `log`: a logarithmic axis from 1 up, for counts.
    """
    rows = values if isinstance(values, Mapping) else {"": values}
    fig = Figure(figsize=(max(5.0, 0.85 * len(words) + 1), 0.6 + 1.6 * len(rows)), layout="constrained")
    axes = fig.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for ax, (name, row) in zip(axes, rows.items(), strict=True):
        row = _list(row)
        drawn = ax.bar(range(len(row)), row, color=[BLUE if value >= 0 else RED for value in row], width=0.6)
        ax.bar_label(drawn, [_text(value, spec) for value in row], fontsize=11, padding=2)
        ax.axhline(1 if log else 0, color=INK, linewidth=0.8)
        ax.set_ylabel(name or ylabel)
        ax.margins(y=0.25)
        if log:
            ax.set_yscale("log")
            ax.set_ylim(1, 4 * max(row))
        ax.grid(False)
    axes[-1].set_xticks(range(len(words)), list(words), fontsize=12)
    axes[0].set_title(title, loc="left")
    return fig


@style()
def heat_map(
    values, rows: Sequence[str], columns: Sequence[str], title: str = "", xlabel="", ylabel="", spec: str = ".2f"
) -> Figure:
    """A table of numbers [rows, columns] with light colours behind them, and the numbers written in as `spec` says."""
    values = torch.as_tensor(values).float()
    fig, ax = new_figure(xlabel, ylabel, title, size=(1.2 + 0.8 * len(columns), 1.2 + 0.45 * len(rows)))
    low, high = values.min().item(), values.max().item()
    colours = cm.ScalarMappable(cmap="cividis")
    colours.set_clim(low - 2 * (high - low or 1), high)  # the light end only, on which dark text can be read
    ax.pcolormesh(colours.to_rgba(values.numpy()), edgecolors="#888888", linewidth=0.5)
    for i in range(len(rows)):
        for j in range(len(columns)):
            ax.text(
                j + 0.5,
                i + 0.5,
                _text(values[i, j].item(), spec),
                color=ON_COLOUR,
                ha="center",
                va="center",
                fontsize=11,
            )
    ax.set_xticks([j + 0.5 for j in range(len(columns))], list(columns))
    ax.set_yticks([i + 0.5 for i in range(len(rows))], list(rows))
    ax.invert_yaxis()
    ax.grid(False)
    return fig


def _text(value: float, spec: str) -> str:
    """A formatted number with a real minus, as on the axes."""
    return format(value, spec).replace("-", "−")


def _list(values) -> list[float]:
    return torch.as_tensor(values).detach().double().flatten().tolist()


def _runs(data) -> tuple[list[float], list[list[float]]]:
    """x and the list of runs, from y, (x, y) or (x, runs)."""
    x, y = data if isinstance(data, tuple) else (None, data)
    if isinstance(y, list | tuple) and y and isinstance(y[0], list | tuple | torch.Tensor):
        y = [_list(run) for run in y]
    y = torch.as_tensor(y).detach().double()
    runs = (y[None] if y.ndim == 1 else y).tolist()
    return ([float(i) for i in range(len(runs[0]))] if x is None else _list(x)), runs


def _triple(value) -> tuple[float, float, float]:
    """(mean, low, high) from a number, such a triple, or a list of runs."""
    if isinstance(value, list) or (isinstance(value, torch.Tensor) and value.ndim):
        return mean_interval(value)
    return tuple(map(float, value)) if isinstance(value, tuple) else (float(value),) * 3


def _level_lines(ax: Axes, levels: Mapping[str, float] | None, vertical: bool = False) -> None:
    for i, (name, level) in enumerate((levels or {}).items()):
        line = ax.axvline if vertical else ax.axhline
        line(float(level), color=INK, linewidth=1.2, linestyle=DASHES[(i + 1) % len(DASHES)], label=name)


def _legend(fig: Figure, ax: Axes, entries: int, at_least: int = 2) -> Figure:
    if entries > 4:  # too many to find room for among the lines
        fig.legend(loc="outside right upper")
    elif entries >= at_least:
        ax.legend()
    return fig
