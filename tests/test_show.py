"""Figures, tables, quiz and widgets: what reaches the page, without a browser."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from rlhf_lib import games, show
from rlhf_lib.course.quiz import quiz
from rlhf_lib.show import display, plots

RUNS = [[0.0, 1.0, 2.0], [0.0, 1.2, 2.2], [0.0, 0.8, 1.8]]
FIGURES = {
    "curves": lambda: show.curves({"a": RUNS, "b": ([0, 5, 9], [1, 2, 3])}, "step", "reward", exact={"best": 2}),
    "curves of tensors": lambda: show.curves({"a": [torch.tensor(run) for run in RUNS]}, "step", "reward"),
    "scatter": lambda: show.scatter({"a": ([1, 2], [3, 4])}, "KL", "reward"),
    "bars": lambda: show.bars({"a": 1.0, "b": (2.0, 1.5, 2.5), "c": [1.0, 2.0, 3.0]}, "variance", exact={"true": 1}),
    "flat bars": lambda: show.bars({"good": 0.6, "bad": 0.4}, "probability", horizontal=True),
    "loglog": lambda: show.loglog({"error": ([10, 100], [1.0, 0.3])}, "N", "error", slope=-0.5),
    "reliability": lambda: show.reliability(torch.linspace(0, 1, 100), torch.ones(100)),
    "histogram": lambda: show.histogram({"base": [1.0, 2.0, 2.0], "RLHF": [3.0, 3.0]}, "score"),
    "words": lambda: show.words_under_sentence(["not", "good"], {"value": [0.1, -0.5], "advantage": [1, 2]}),
    "counts of words": lambda: show.words_under_sentence(["not", "good"], [12.3, 4567.8], spec=",.0f", log=True),
    "heat map": lambda: show.heat_map([[1.0, 2.0], [3.0, 4.0]], ["a", "b"], ["c", "d"]),
}


def shown(capture) -> dict:
    return capture.pop()


@pytest.fixture
def page(monkeypatch):
    bundles = []
    for module in ("rlhf_lib.show.display.display", "rlhf_lib.course.quiz.display"):
        monkeypatch.setattr(module, lambda bundle, raw: bundles.append(bundle))
    return bundles


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES.keys())
def test_figures_become_accessible_svg_in_the_themes_colours(make):
    figure = make()
    assert isinstance(figure, Figure)
    html = show.figure_html(figure, "It rises <fast> & far.")
    svg = ElementTree.fromstring(html)  # well-formed
    assert svg.get("role") == "img" and svg.get("aria-label") == "It rises <fast> & far."
    assert svg[0].tag.endswith("title") and svg[0].text == "It rises <fast> & far."
    assert display.INK in html and "#000000" not in html and "#ffffff" not in html
    assert "max-width: 100%" in svg.get("style")
    assert "<style" not in html  # a style element would reach the rest of the page
    texts = figure.findobj(Text)
    assert texts and min(text.get_fontsize() for text in texts if text.get_text()) >= 11


def test_svg_is_deterministic_and_ids_do_not_clash():
    first, again = (show.figure_html(FIGURES["curves"](), "alt") for _ in range(2))
    assert first == again

    def ids(html):
        return set(re.findall(r'\bid="([^"]+)"', html))

    other = show.figure_html(FIGURES["bars"](), "alt")
    assert ids(first) and not ids(first) & ids(other)
    for html in (first, other):
        referred = {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html)}
        assert referred and referred <= ids(html)


def test_a_figure_needs_alt_text(page):
    with pytest.raises(ValueError, match="alt text"):
        show.figure(FIGURES["bars"](), " ")
    show.figure(FIGURES["bars"](), "three bars")
    bundle = shown(page)
    assert bundle["text/plain"] == "[figure: three bars]" and bundle["text/html"].startswith("<svg")


def _contrast(a, b):
    def luminance(colour):
        parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", plots.PALETTE)
def test_palette_has_contrast_in_both_themes(colour):
    assert _contrast(colour, "#ffffff") >= 3 and _contrast(colour, "#111111") >= 3


def test_curves_of_several_runs_shade_their_interval():
    axes = show.curves({"a": ([1, 2, 3], RUNS)}, "step", "reward").axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[1, 0], [2, pytest.approx(1)], [3, pytest.approx(2)]]
    band = axes.collections[0].get_paths()[0].get_extents()
    half = 4.302653 * 0.2 / 3**0.5  # Student's t with 2 degrees of freedom; the runs' standard deviation is 0.2
    assert band.y1 == pytest.approx(2 + half, rel=1e-5)


def test_table_aligns_numbers_and_escapes_text(page):
    rows = [{"name": "<b>", "mean": 0.12345, "n": 12000}, {"name": "x", "mean": None, "n": 2}]
    show.table(rows, caption="A & B", formats={"n": ".0f"})
    html = shown(page)["text/html"]
    table = ElementTree.fromstring(html)
    assert table.find("caption").text == "A & B"
    assert [cell.get("scope") for cell in table.findall("thead/tr/th")] == ["col"] * 3
    first = table.find("tbody/tr")
    assert [cell.text for cell in first] == ["<b>", "0.123", "12000"]
    assert first[0].tag == "th" and first[0].get("scope") == "row"
    assert "right" in first[1].get("style") and "left" in first[0].get("style")


def test_table_of_tuples(page):
    show.table([("a", 1), ("b", 2)], ["name", "count"])
    assert shown(page)["text/plain"] == "name | count\na | 1\nb | 2"


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (1234567, "1,234,567"), (0.5, "0.500"), (0.0, "0.000"), (2.1e-5, "2.1e-05")]
)
def test_numbers(value, text):
    assert display.number(value) == text


def test_text_samples_stand_side_by_side(page):
    show.text_samples(["I loved"], {"base": [" it."], "RLHF": [" every <minute>."]}, scores={"RLHF": [0.5]})
    assert shown(page)["text/plain"] == "prompt | base | RLHF\nI loved | it. | every <minute>.\n[+0.50]"


def test_quiz_explains_every_answer(page):
    quiz("Which?", {"up": "It climbs.", "down": "That falls."}, correct="up")
    bundle = shown(page)
    details = ElementTree.fromstring(bundle["text/html"]).findall("details")
    assert [d.find("summary").text for d in details] == ["up", "down"]
    assert "Right. It climbs." in bundle["text/plain"] and "Not quite. That falls." in bundle["text/plain"]
    with pytest.raises(ValueError, match="not among"):
        quiz("Which?", {"up": "", "down": ""}, correct="left")


def _stepper(**options):
    words = [(" good", 0.6), (" bad", 0.3), (".", 0.1)]
    return show.Stepper(lambda text: words, lambda text: text.count("good"), start="It is", end=".", **options)


def test_stepper_walks_an_episode():
    stepper = _stepper(horizon=3)
    assert stepper.text == "It is" and not stepper.done and stepper.value is None
    assert [button.description for button in stepper._buttons[:3]] == ["good 60%", "bad 30%", ". 10%"]
    stepper._buttons[0].click()
    assert stepper.text == "It is good" and "It is<b> good</b>" in stepper._sentence.value
    stepper._own.set_state({"value": "very"})
    stepper._add.click()
    assert stepper.text == "It is good very"
    stepper._undo.click()
    stepper.step(".")
    assert stepper.done and stepper.value == 1.0 and "return <b>+1.00</b>" in stepper._sentence.value
    stepper.step(" more")
    assert stepper.text == "It is good."
    stepper._restart.click()
    assert stepper.words == [] and stepper._undo.disabled


def test_an_interval_is_told_with_a_true_minus():
    assert show.interval([-1.0, 1.0]) == "0.00 (−12.71 to 12.71)"  # Student's t with one degree of freedom
    assert show.interval([2.0, 2.0], digits=1) == "2.0 (2.0 to 2.0)"


def test_a_game_is_played_by_hand():
    player = show.GamePlayer(games.load("snack"), horizon=4)
    assert "Put the apple into the oven" in player.html() and not player.done
    shown = [button.description for button in player._buttons if button.layout.display == ""]
    assert shown == list(player.game.admissible(0))
    player._buttons[shown.index("open oven")].click()
    assert player.commands == ["open oven"] and "You open the oven." in player._page.value
    player.play("close oven")
    player._undo.click()
    player.play("insert apple into oven")
    assert player.done and player.score == 2 and "score 2. The episode has ended" in player._page.value
    player.play("look")
    assert len(player.commands) == 2
    player._restart.click()
    assert player.commands == [] and player.score == 0 and player._undo.disabled
    with pytest.raises(ValueError, match="not admissible"):
        player.play("dance")
    for _ in range(4):
        player.play("look")
    assert player.done


def test_stepper_ends_at_its_horizon():
    stepper = _stepper(horizon=2)
    stepper.step(" bad")
    stepper.step(" bad")
    assert stepper.done and stepper.value == 0.0 and stepper._add.disabled


def test_widgets_show_themselves_where_they_cannot_be_drawn():
    for widget in (
        _stepper(),
        show.PairLabeler([("a", "b")]),
        show.RankingLabeler([("a", "b", "c")]),
        show.slider_figure(lambda n: str(n), n=[1, 2]),
    ):
        bundle = widget._repr_mimebundle_()
        assert bundle["application/vnd.jupyter.widget-view+json"] and bundle["text/html"] and bundle["text/plain"]


def test_slider_figure_draws_again_when_a_slider_moves():
    drawn = []

    def draw(beta, n):
        drawn.append((beta, n))
        return show.bars({"beta": beta}, "value")

    touchable = show.slider_figure(
        draw, lambda beta, n: f"beta is {beta}", {"n": "samples"}, beta=[0.1, 1.0], n=(1, 5, 1, 2)
    )
    assert touchable.values == {"beta": 0.1, "n": 2} and 'aria-label="beta is 0.1"' in touchable._page.value
    touchable.sliders["beta"].value = 1.0
    touchable.sliders["n"].set_state({"value": 5})
    assert drawn[-1] == (1.0, 5) and 'aria-label="beta is 1.0"' in touchable._page.value
    assert touchable.sliders["n"].description == "samples"


def test_steps_have_whole_ticks_and_other_scales_their_own():
    steps, shares = (
        show.curves({"a": [1, 2, 3, 2]}, "step", "y"),
        show.curves({"a": ([0, 0.5, 1], [1, 2, 3])}, "w", "y"),
    )
    assert all(float(tick).is_integer() for tick in steps.axes[0].get_xticks())
    assert not all(float(tick).is_integer() for tick in shares.axes[0].get_xticks())
