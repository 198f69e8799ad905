"""The labellers without a browser: buttons, keys as the text field reports them, the file. See also test_browser.py."""

import itertools
import threading

import pytest

from rlhf_lib import labels, show
from rlhf_lib.labels import append_label, read_labels
from rlhf_lib.preferences import Ranking

PAIRS = [("a", "b"), ("c", "<d>"), ("e", "f"), ("g", "h")]
FOUR = ("It was bad.", "It was good.", "It was fine.", "It was okay.")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.jsonl"


def ranks(labeler):
    return [ranking.ranks for ranking in labeler.labels]


def test_pairs_are_answered_and_undone_by_buttons():
    labeler = show.PairLabeler(PAIRS)
    for key in "b=s":
        labeler._buttons[key].click()
    labeler._undo.click()
    labeler._undo.click()
    assert "&lt;d&gt;" in labeler._page.value and labeler.current == 1
    for choice in ("left", "skip", "tie"):
        labeler.answer(choice)
    assert labeler.labels == [Ranking(("a", "b"), (1, 0)), Ranking(("c", "<d>"), (0, 1)), Ranking(("g", "h"), (0, 0))]
    assert labeler.current is None and labeler._buttons["a"].disabled and "4 of 4 answered" in labeler._status.value
    labeler.answer("left")  # nothing left to answer: nothing happens
    assert len(labeler.labels) == 3
    with pytest.raises(ValueError, match="left, right, tie or skip"):
        labeler.answer("both")


def test_typing_answers_and_deleting_takes_back():
    labeler = show.PairLabeler(PAIRS)
    for value in ("a", "a?", "a?B", "a?B=", "a?B"):
        labeler._keys.value = value
    assert ranks(labeler) == [(0, 1), (1, 0)]
    labeler._keys.value = "a?Bsb"  # several keys in one message, as they come when the kernel was busy
    assert ranks(labeler) == [(0, 1), (1, 0), (1, 0)] and labeler.current is None
    labeler._keys.value = ""
    assert labeler.labels == [] and labeler.current == 0 and not labeler._keys.disabled


def test_keys_and_buttons_mix():
    labeler = show.PairLabeler(PAIRS)
    labeler._keys.value = "a"
    labeler._buttons["b"].click()
    labeler._keys.value = ""  # the typed answer is not the last one: a key deleted takes nobody else's answer
    assert ranks(labeler) == [(0, 1), (1, 0)]
    labeler._keys.value = "="
    labeler._undo.click()
    labeler._keys.value = ""  # already taken back
    assert ranks(labeler) == [(0, 1), (1, 0)]
    labeler._keys.value = "u"
    labeler._keys.value = "uu"
    assert labeler.labels == []


def test_answers_are_on_the_disk_and_not_asked_again(path):
    first = show.PairLabeler(PAIRS, path=path)
    for choice in ("left", "right", "undo", "skip"):
        first.undo() if choice == "undo" else first.answer(choice)
    assert read_labels(path)[0] == [Ranking(("a", "b"), (0, 1))]
    second = show.PairLabeler(PAIRS, path=path)
    assert second.labels == first.labels and second.pairs[second.current] == ("c", "<d>")
    assert "1 of 4 answered, 1 of them before (found in labels.jsonl)" in second._status.value
    second.undo()  # nothing of its own to take back
    second.answer("tie")
    assert len(read_labels(path)[0]) == 2


def test_two_labellers_of_one_file_undo_their_own(path):
    one, other = (show.PairLabeler(PAIRS, path=path) for _ in range(2))
    one.answer("left")
    other.answer("right")
    one.undo()
    assert read_labels(path)[0] == [Ranking(("a", "b"), (1, 0))]


def test_a_damaged_line_is_reported(path):
    append_label(path, Ranking(("a", "b"), (0, 1)))
    with path.open("ab") as file:
        file.write(b'{"texts": ["c", "<d>"], "ra')
    labeler = show.PairLabeler(PAIRS, path=path)
    assert labeler.current == 1 and "line 2 is damaged and was skipped" in labeler._status.value


def test_what_cannot_be_saved_is_not_counted(path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    labeler = show.PairLabeler(PAIRS, path=path)
    labeler._keys.value = "a"
    monkeypatch.setattr("rlhf_lib.show.labeler.append_label", full)
    labeler._keys.value = "ab"
    labeler._buttons["b"].click()
    assert labeler.current == 1 and "No space left on device" in labeler._status.value
    with pytest.raises(OSError):
        labeler.answer("right")
    monkeypatch.setattr("rlhf_lib.show.labeler.append_label", labels.append_label)
    labeler._keys.value = "abb"
    assert ranks(labeler) == [(0, 1), (1, 0)] == [ranking.ranks for ranking in read_labels(path)[0]]
    assert "No space" not in labeler._status.value


def test_clicks_from_two_threads_are_all_counted():
    labeler = show.PairLabeler([(str(i), "x") for i in range(40)])
    clicks = [threading.Thread(target=lambda: [labeler.answer("left") for _ in range(20)]) for _ in range(2)]
    for thread in clicks:
        thread.start()
    for thread in clicks:
        thread.join()
    assert labeler.current is None and len(labeler.labels) == 40


def test_the_lectures_ranking_by_buttons_keys_and_words(path):
    labeler = show.RankingLabeler([FOUR, FOUR[::-1], FOUR[:3]], path=path)
    for key in "bc=":
        labeler._buttons[key].click()
    assert labeler.labels == [] and labeler._buttons["b"].disabled and "B &gt; C = …" in labeler._status.value
    assert "· place 1" in labeler._page.value and "· place 2" in labeler._page.value
    for key in "da":
        labeler._buttons[key].click()
    labeler._keys.value = "b>c=d>a"
    labeler.answer("C > A = B")
    assert ranks(labeler) == [(2, 0, 1, 1), (2, 0, 1, 1), (1, 1, 0)]
    assert read_labels(path)[0] == labeler.labels and labeler.current is None


def test_a_ranking_is_undone_key_by_key(path):
    labeler = show.RankingLabeler([FOUR], path=path)
    labeler._keys.value = "dcba"
    assert read_labels(path)[0] == labeler.labels == [Ranking(FOUR, (3, 2, 1, 0))]
    labeler._keys.value = "dcb"
    assert read_labels(path)[0] == labeler.labels == []
    labeler._keys.value = "dc=b"  # in the middle: what comes after is taken back and read again
    labeler._keys.value = "dc=ba"
    assert ranks(labeler) == [(2, 1, 1, 0)]
    labeler.undo()
    labeler.answer("skip")
    assert labeler.current is None and labeler.labels == []


def test_only_whole_orders_are_rankings():
    labeler = show.RankingLabeler([FOUR])
    for order in ("B > C", "B > C = D > A > A", "= B > C > D > A", "B > C > D > E", "B == C > D > A"):
        with pytest.raises(ValueError, match="an order of all the texts"):
            labeler.answer(order)
    assert labeler.current == 0 and labeler._so_far == ""
    for groups in ([("alone",)], [tuple("abcdefghi")]):
        with pytest.raises(ValueError, match="2 to 8 texts"):
            show.RankingLabeler(groups)


def test_every_order_of_three_texts_can_be_typed():
    """13 orders with ties: by the groups that their keys name."""
    found = set()
    for letters in itertools.permutations("abc"):
        for ties in itertools.product(("", "="), repeat=2):
            labeler = show.RankingLabeler([FOUR[:3]])
            labeler._keys.value = letters[0] + ties[0] + letters[1] + ties[1] + letters[2]
            found.add(labeler.labels[0].ranks)
    assert len(found) == 13


def test_texts_and_progress_have_names_for_screen_readers():
    labeler = show.RankingLabeler([FOUR])
    for name in "ABCD":
        assert f'role="group" aria-label="Text {name}"' in labeler._page.value
    assert '<progress value="0" max="1" aria-label="answered">' in labeler._status.value
    assert 'role="status" aria-live="polite"' in labeler._status.value
    assert labeler._keys.description == "Keys:" and all(button.tooltip for button in labeler._buttons.values())
