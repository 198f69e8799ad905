"""The display room: figures from data, and the few ways a lesson shows something.

    fig = show.curves({"reward": runs}, "step", "mean reward")
    show.figure(fig, alt="The mean reward of four runs rises from 0 to 0.6 in 40 steps.")

`plots` turns data into `matplotlib.figure.Figure`s, `display` puts figures, tables and completions on the page in the
theme's colours, `widgets` holds the things to touch, `labeler` those to label with.
"""

try:
    import ipywidgets  # noqa: F401
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError('Figures and widgets need the lab extra: pip install "rlhf-lib[lab]"') from error

from rlhf_lib.show.display import figure, figure_html, interval, table, text_samples
from rlhf_lib.show.labeler import PairLabeler, RankingLabeler
from rlhf_lib.show.plots import (
    bars,
    curves,
    heat_map,
    histogram,
    loglog,
    new_figure,
    reliability,
    scatter,
    style,
    words_under_sentence,
)
from rlhf_lib.show.widgets import GamePlayer, Stepper, slider_figure

__all__ = [
    "GamePlayer",
    "PairLabeler",
    "RankingLabeler",
    "Stepper",
    "bars",
    "curves",
    "figure",
    "figure_html",
    "heat_map",
    "histogram",
    "interval",
    "loglog",
    "new_figure",
    "reliability",
    "scatter",
    "slider_figure",
    "style",
    "table",
    "text_samples",
    "words_under_sentence",
]
