"""Multiple-choice questions with an explanation for every answer."""

from collections.abc import Mapping
from html import escape

from IPython.display import display


def quiz(question: str, answers: Mapping[str, str], correct: str) -> None:
    """Show a question; each answer opens, by click or keyboard, to say whether it is right and why.

    `answers` maps each answer to its explanation. Nothing has to be clicked or kept: the disclosure elements work in
    JupyterLab, in exported pages and with a screen reader. ValueError where `correct` is not among the answers.
    """
    if correct not in answers:
        raise ValueError(f"the correct answer {correct!r} is not among {list(answers)}")
    items, lines = "", [question]
    for answer, why in answers.items():
        verdict = "Right." if answer == correct else "Not quite."
        items += (
            f'<details style="margin: 0.3em 0; padding: 0.3em 0.7em; border: 1px solid var(--jp-border-color1, #888)">'
            f'<summary style="cursor: pointer">{escape(answer)}</summary>'
            f'<p style="margin: 0.4em 0 0.2em 1.1em"><b>{verdict}</b> {escape(why)}</p></details>'
        )
        lines.append(f"- {answer}\n    {verdict} {why}")
    html = f'<div role="group" aria-label="Quiz"><p><b>{escape(question)}</b></p>{items}</div>'
    display({"text/html": html, "text/plain": "\n".join(lines)}, raw=True)
