"""The rated sentences, their splits and the data card; and the micro language, against scores worked out by hand."""

import re

import pytest
import torch
from torch.testing import assert_close

from rlhf_lib import preferences, reviews
from rlhf_lib.mdp import enumerate_episodes, exact_objective
from rlhf_lib.paths import data_dir

# --- the sentences ---------------------------------------------------------------------------------------------------


def test_shape_of_the_data(rated):
    assert len(rated) == len(rated.ratings) == len(rated.block) == 10_605
    assert rated.block == sorted(rated.block)
    assert rated.block[0] == 0 and rated.block[-1] == 353 and rated.block.count(353) == 15
    for block in range(354):  # a panel has the same size for all its sentences
        assert len({len(rated.ratings[row]) for row in range(30 * block, min(30 * block + 30, 10_605))}) == 1
    assert rated.mean(2) == -0.6  # fifteen people about an "effective but too tepid biopic"


def test_text_is_read_as_it_was_shown(rated):
    text = "\n".join(rated.texts)
    assert "clichés disappear" in text and "François" in text
    assert not re.search("Ã|â\x80|&\\w+;|  |\t|\r", text)
    assert all(sentence == sentence.strip() and sentence for sentence in rated.texts)
    assert reviews.clean(" Tom &amp; Jerry   are ''back'' \t") == "Tom & Jerry are ''back''"


def test_misaligned_files_are_refused(tmp_path, monkeypatch):
    movie, panels = tmp_path / "movie.txt", tmp_path / "ratings.txt"
    monkeypatch.setattr(reviews.assets, "ratings_files", lambda: {"movie": movie, "movie_ratings": panels})
    load = reviews.load.__wrapped__  # without the memory of what was loaded before
    movie.write_bytes(b"1\t1.5\tFine, \xc3\xa0 propos.\r\n2\t-2\tPoor.\r\n")
    panels.write_bytes(b"\xef\xbb\xbf1\t1.5\t0.5\t[1, 2]\r\n2\t-2.0\t0\t[-2, -2]")
    assert load() == reviews.Reviews(["Fine, à propos.", "Poor."], [[1, 2], [-2, -2]], [0, 0])
    for wrong in (b"2\t1.5\t0.5\t[1, 2]\n1\t-2.0\t0\t[-2, -2]", b"1\t1.5\t0.5\t[1, 3]\n2\t-2.0\t0\t[-2, -2]"):
        panels.write_bytes(wrong)
        with pytest.raises(ValueError, match="do not belong together"):
            load()
    panels.write_bytes(b"1\t1.5\t0.5\t[1, 2]")
    with pytest.raises(ValueError):
        load()


def test_splits_are_whole_blocks_of_both_halves():
    blocks = reviews.split_blocks()
    assert {split: len(blocks[split]) for split in reviews.SPLITS} == {
        "train": 212,
        "validation": 28,
        "test": 42,
        "judge": 72,
    }
    assert sorted(sum(blocks.values(), ())) == list(range(354))
    assert all(2 * sum(block < 177 for block in blocks[split]) == len(blocks[split]) for split in reviews.SPLITS)
    # The order is part of what results mean, so it may not change: the first and last test blocks.
    assert blocks["test"][:3] == (5, 9, 27) and blocks["test"][-3:] == (333, 347, 348)


def test_rows_and_subsets_of_splits(rated):
    rows = {split: rated.rows(split) for split in reviews.SPLITS}
    assert sorted(sum(rows.values(), [])) == list(range(len(rated)))
    seen = [{rated.texts[row].lower() for row in rows[split]} for split in reviews.SPLITS]
    assert sum(map(len, seen)) == len(set.union(*seen))  # no sentence is in two splits
    part = rated.subset("validation")
    assert part.texts == [rated.texts[row] for row in rows["validation"]]
    assert part.mean(7) == rated.mean(rows["validation"][7])
    assert set(part.block) == set(reviews.split_blocks()["validation"])
    with pytest.raises(ValueError, match="choose from train, validation, test, judge"):
        rated.rows("dev")


def test_openings_are_beginnings_of_negative_sentences(rated):
    found = reviews.openings("validation", max_rating=-1.5, words=4)
    negative = [rated.texts[row] for row in rated.rows("validation") if rated.mean(row) <= -1.5]
    assert found and len(set(found)) == len(found)
    assert all(len(opening.split(" ")) == 4 for opening in found)
    assert all(any(text.startswith(opening + " ") for text in negative) for opening in found)
    some = reviews.openings("validation", max_rating=-1.5, words=4, limit=10)
    assert len(some) == 10 and [opening for opening in found if opening in some] == some
    assert some[-1] in found[-len(found) // 10 - 1 :]  # spread over the file
    assert reviews.openings("validation", max_rating=-1.5, words=4, limit=10**6) == found
    with pytest.raises(ValueError, match="at least one word"):
        reviews.openings(words=0)


def test_demonstrations_join_to_positive_sentences(rated):
    pairs = reviews.demonstrations("validation", min_rating=2.0, words=3)
    positive = [rated.texts[row] for row in rated.rows("validation") if rated.mean(row) >= 2.0]
    assert [prompt + completion for prompt, completion in pairs] == [t for t in positive if len(t.split(" ")) > 3]
    assert all(len(prompt.split(" ")) == 3 and completion.startswith(" ") for prompt, completion in pairs)


def test_other_texts(rated):
    others = reviews.other_texts()
    assert {name: len(texts) for name, texts in others.items()} == {"amazon": 3708, "nyt": 5190, "tweets": 4200}
    held_out = {rated.texts[row] for split in ("test", "validation") for row in rated.rows(split)}
    assert all(text and text not in held_out for texts in others.values() for text in texts)


# --- the data card ---------------------------------------------------------------------------------------------------


def card_table(heading: str) -> list[dict[str, str]]:
    """The table of data/README.md whose first column has this heading."""
    lines = (data_dir() / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


def test_card_statistics(rated):
    card = {row["statistic"]: number(row["value"]) for row in card_table("statistic")}
    table = preferences.rating_matrix(rated.ratings)
    means, panel = table.nanmean(1), (~table.isnan()).sum(1)
    spread = ((table - means[:, None]).square().nansum(1) / (panel - 1)).sqrt()
    by_block = [preferences.krippendorff_alpha(table[start : start + 30]) for start in range(0, len(table), 30)]
    measured = {
        "sentences": len(rated),
        "ratings": int(panel.sum()),
        "ratings a sentence, fewest": int(panel.min()),
        "ratings a sentence, most": int(panel.max()),
        "lowest rating": min(map(min, rated.ratings)),
        "highest rating": max(map(max, rated.ratings)),
        "characters": sum(map(len, rated.texts)),
        "words": sum(len(text.split(" ")) for text in rated.texts),
        "mean rating": float(means.mean()),
        "mean rating, first half": float(means[: 30 * 177].mean()),
        "mean rating, second half": float(means[30 * 177 :].mean()),
        "standard deviation of the sentences' means": float(means.std()),
        "mean standard deviation within a sentence": float(spread.mean()),
        "Krippendorff's alpha, interval scale, all sentences": preferences.krippendorff_alpha(table),
        "Krippendorff's alpha, mean over blocks": sum(by_block) / len(by_block),
    }
    assert card == {name: pytest.approx(value, abs=0.00501) for name, value in measured.items()}


def test_card_splits(rated):
    rows = card_table("split")
    assert [row["split"] for row in rows] == list(reviews.SPLITS)
    for row in rows:
        part = rated.subset(row["split"])
        means = [part.mean(i) for i in range(len(part))]
        assert number(row["blocks"]) == len(set(part.block))
        assert number(row["sentences"]) == len(part)
        assert number(row["ratings"]) == sum(map(len, part.ratings))
        assert number(row["mean rating"]) == round(sum(means) / len(means), 2)
        assert number(row["mean at least 1"]) == sum(mean >= 1 for mean in means)
        assert number(row["mean at most -1"]) == sum(mean <= -1 for mean in means)


def test_card_agreement(rated):
    close = {"abs": 0.01}  # 0.005 of the card's rounding, the rest of three standard errors of the draw
    for row in card_table("pairs"):
        part = rated if row["sentences"] == "all" else rated.subset(row["sentences"])
        kind = row["pairs"].split()[0]
        found = preferences.human_ceiling(part.ratings, part.block, kind, torch.Generator().manual_seed(3), 100_000)
        assert number(row["ties"]) == pytest.approx(found.tie_share, **close)
        assert number(row["two people agree"]) == pytest.approx(found.two_people.value, **close)
        rest = number(row["one person and the mean of the rest"])
        assert rest == pytest.approx(found.person_and_rest.value, **close)
        width = 0.02 if row["sentences"] == "test" else 0.01
        for accuracy in (found.two_people, found.person_and_rest):
            assert accuracy.value - width < accuracy.low < accuracy.value < accuracy.high < accuracy.value + width


# --- the micro language ----------------------------------------------------------------------------------------------


def micro(text: str, opening: str = "") -> float:
    tokens = torch.tensor([reviews.micro_ids(text.split())], dtype=torch.long)
    return float(reviews.micro_score(tokens, torch.ones_like(tokens, dtype=torch.bool), opening.split()))


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("", 0),
        ("very", 0),
        ("great", 3),
        ("dull .", -1),
        ("very good", 2.6),
        ("very very good", 3.38),
        ("very very very great", 4),  # 6.6, cut off
        ("not good", -1),
        ("not very good", -1.3),
        ("not not bad", -0.5),
        ("not awful", 1.5),
        ("not but good", 2),  # "not" has nothing to negate
        ("not and good", 2),
        ("good and bad", 0),
        ("great good dull", 4 / 3),
        ("awful but", -3),
        ("awful but very .", -3),
        ("but great", 3),
        ("awful but great", 1.5),
        ("great but awful", -1.5),
        ("awful but great and good", 1.125),  # -3/4 + 3/4 of 2.5
        ("bad but good but dull", -0.5),  # (-2/4 + 3/4 of 2)/4 - 3/4
        ("awful but very very great", 3.0525),  # -3/4 + 3/4 of 5.07
    ],
)
def test_micro_scores_by_hand(text, score):
    assert micro(text) == pytest.approx(score, abs=1e-5)


def test_micro_opening_counts_as_written():
    assert micro("but very great", opening="not good") == micro("not good but very great")
    assert micro("good", opening="not very") == micro("not very good")
    with pytest.raises(ValueError, match=r"\['boring'\]; its words are great good"):
        reviews.micro_mdp(opening=("boring",))


def test_micro_score_ignores_what_follows_the_end():
    tokens = torch.tensor([reviews.micro_ids("good . awful awful".split())])
    mask = torch.tensor([[True, True, False, False]])
    assert_close(reviews.micro_score(tokens, mask), torch.tensor([2.0]))


def test_micro_mdp_pays_to_turn_with_but():
    mdp = reviews.micro_mdp()
    assert (len(mdp.actions), mdp.horizon, mdp.gamma, mdp.actions[mdp.eos]) == (10, 4, 1.0, ".")
    tokens, mask = enumerate_episodes(mdp)
    assert len(tokens) == 1 + 9 + 81 + 729 + 9**4
    rewards = mdp.reward(tokens, mask)
    assert rewards.shape == (len(tokens),) and rewards.abs().max() <= 4
    best = rewards.argmax()
    assert [mdp.actions[i] for i in tokens[best]] == ["but", "very", "very", "great"]
    turned = ((tokens == mdp.actions.index("but")) & mask).any(1)
    assert_close(rewards[~turned].max(), torch.tensor(1.8))  # "great great great great", a local optimum
    assert_close(rewards[best], torch.tensor(3.0525))
    for n in range(0, len(tokens), 500):  # one text at a time gives the same
        text = " ".join(mdp.actions[i] for i in tokens[n][mask[n]])
        assert float(rewards[n]) == pytest.approx(micro(text, "awful"), abs=1e-5)


def test_micro_mdp_is_exact_for_a_policy():
    mdp = reviews.micro_mdp(horizon=2, opening=("bad",))

    def policy(tokens):  # says "but great" or ends at once, evenly
        after_but = torch.zeros(tokens.shape, dtype=torch.bool)
        after_but[:, 1:] = tokens[:, :-1] == mdp.actions.index("but")
        probs = torch.zeros(*tokens.shape, 10)
        probs[..., [mdp.actions.index("but"), mdp.eos]] = 0.5
        great = torch.eye(10)[mdp.actions.index("great")]
        return torch.where(after_but[..., None], great, probs).log()

    assert_close(exact_objective(mdp, policy), torch.tensor(0.5 * -2 + 0.5 * (-2 / 4 + 3 * 3 / 4)))
