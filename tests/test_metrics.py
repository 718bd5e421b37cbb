"""Metrics against numbers worked out by hand, and 100 on perfect predictions.

Their standard errors, too.
"""

import math

import numpy as np
import pytest
import sacrebleu

from flan_jax import metrics
from flan_jax.errors import UserError
from flan_jax.metrics.targets import number_of


def choice(label, options=("no", "yes"), **more):
    return {
        "inputs": "?",
        "options": list(options),
        "label": label,
        "answer": options[label],
        **more,
    }


def text(answer, *references, **more):
    return {"inputs": "?", "answer": answer, "references": [*references], **more}


CHOICES = [choice(1), choice(0), choice(1), choice(0), choice(1)]
TEXTS = [
    text("The quick brown fox jumps over a lazy dog.", "A fast fox leaps over the dog."),
    text("Hello."),
    text("Seven men walked home. They were tired."),
    text("42"),
]


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_perfect_predictions_give_100(name):
    scales = [choice(i, "012345", group=f"q{i // 2}", value=float(i)) for i in range(6)]
    for targets, predictions in (
        (CHOICES, [t["label"] for t in CHOICES]),
        (CHOICES[:1], [1]),
        (CHOICES[1:2], [0]),
        (scales, list(range(6))),
        (CHOICES, [t["answer"] for t in CHOICES]),
    ):
        assert {round(v, 9) for v in metrics.score(name, targets, predictions).values()} == {100.0}
    if name in ("f1", "macro_f1", "matthews", "multirc"):
        return
    for targets in (
        TEXTS,
        TEXTS[1:2],
        [text("the"), text("?!")],
        [text("Über  den\nWolken"), text("a b")],
    ):
        predictions = [" ".join(t["answer"].split()) for t in targets]
        assert {round(v, 9) for v in metrics.score(name, targets, predictions).values()} == {100.0}


def test_accuracy_and_its_standard_error():
    value = metrics.score("accuracy", CHOICES, [1, 0, 0, 1, 1])["accuracy"]
    assert value == pytest.approx(60) and value.stderr == pytest.approx(
        100 * math.sqrt(0.6 * 0.4 / 4)
    )
    assert metrics.score("accuracy", CHOICES[:1], [1])["accuracy"].stderr is None


def test_accuracy_takes_either_of_two_equal_options_and_reads_texts():
    twin = [choice(2, ("Rome", "Oslo", "Rome"))]
    assert metrics.score("accuracy", twin, [0])["accuracy"] == 100
    assert metrics.score("accuracy", twin, ["Rome"])["accuracy"] == 100
    assert metrics.score("accuracy", twin, ["Berlin"])["accuracy"] == 0
    assert metrics.score("accuracy", [text("4 x", "2 y")], ["2  y"])["accuracy"] == 100


def test_f1_counts_the_class_with_label_1():
    # 2 hits, 1 false hit, 1 miss.
    assert metrics.score("f1", CHOICES, [1, 1, 1, 0, 0])["f1"] == pytest.approx(100 * 4 / 6)
    assert metrics.score("f1", CHOICES, [0] * 5)["f1"] == 0


def test_a_text_that_is_no_option_is_wrong_in_both_classes():
    # Targets 1, 0, 1, 0, 1: 2 hits, a false hit (the invalid answer to a 0), a miss (that to a 1).
    said = ["yes", "maybe", "perhaps", "no", "yes"]
    assert metrics.score("f1", CHOICES, said)["f1"] == pytest.approx(100 * 4 / 6)
    grouped = [{**t, "group": i // 2} for i, t in enumerate(CHOICES)]
    got = metrics.score("multirc", grouped, said)
    assert got["f1a"] == pytest.approx(100 * 4 / 6) and got["em"] == pytest.approx(100 / 3)
    # tp 2, tn 1, fp 1, fn 1.
    assert metrics.score("matthews", CHOICES, said)["matthews"] == pytest.approx(100 / 6)


def test_macro_f1_means_over_the_classes_that_occur():
    targets = [choice(i, "abcd") for i in (0, 0, 1, 2)]
    # a: 1 hit, 1 miss = 2/3; b: 1 hit, 1 false = 2/3; c: 1.
    assert metrics.score("macro_f1", targets, [0, 1, 1, 2])["macro_f1"] == pytest.approx(
        100 * (2 / 3 + 2 / 3 + 1) / 3
    )
    assert metrics.score("macro_f1", targets, ["z", "b", "b", "c"])["macro_f1"] == pytest.approx(
        100 * (0 + 2 / 3 + 1) / 3
    )


def test_matthews_is_the_formula_of_counts():
    # tp 2, tn 1, fp 1, fn 1.
    expected = 100 * (2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2)
    assert metrics.score("matthews", CHOICES, [1, 1, 1, 0, 0])["matthews"] == pytest.approx(
        expected
    )
    assert metrics.score("matthews", CHOICES, [1] * 5)["matthews"] == 0
    assert metrics.score("matthews", CHOICES, [0, 1, 0, 1, 0])["matthews"] == pytest.approx(-100)


def test_correlations_read_numbers_out_of_answers():
    targets = [choice(i, "0123", value=v) for i, v in zip((0, 1, 2, 3), (0.2, 0.9, 2.4, 2.6))]
    got = metrics.score("pearson", targets, [0, 2, 1, 3])
    assert got["pearson"] == pytest.approx(80) and got["pearson"].stderr > 0
    constant = metrics.score("pearson", targets, [1, 1, 1, 1])["pearson"]
    assert constant == 0 and constant.stderr is None
    assert got["pearson_value"] == pytest.approx(
        100 * np.corrcoef([0.2, 0.9, 2.4, 2.6], [0, 2, 1, 3])[0, 1]
    )
    assert list(metrics.score("pearson", [text("1.5"), text("2")], ["it is 3.5", "4"])) == [
        "pearson"
    ]
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    ties = [text("0"), text("1"), text("1"), text("9")]
    assert metrics.score("spearman", ties, list("0123"))["spearman"] == pytest.approx(
        100 * 4.5 / math.sqrt(4.5 * 5)
    )
    assert metrics.score("spearman", ties, ["none"] * 4)["spearman"] == 0
    for name in ("pearson", "spearman"):
        # Three times 4.4 or 3.8 have means that are off in the last digit.
        for answer, predicted, rows, value in (
            ("3.8", "4.4", 3, 0),
            ("3", "3", 9, 100),
            ("1", "9", 1, 0),
        ):
            scores = metrics.score(name, [text(answer)] * rows, [predicted] * rows)
            assert scores[name] == value


def test_classes_are_those_of_the_dataset_when_options_are_shuffled_or_lettered():
    shuffled = [
        choice(0, ("yes", "no"), order=[1, 0]),
        choice(0),
        choice(1),
        choice(0, ("yes", "no"), order=[1, 0]),
    ]
    for name in ("f1", "macro_f1", "matthews", "multirc"):
        assert set(metrics.score(name, shuffled, [0, 0, 1, 0]).values()) == {100.0}
    # Classes 1, 0, 1, 1 against 0, 0, 0, 1: one hit, two misses.
    assert metrics.score("f1", shuffled, [1, 0, 0, 0])["f1"] == pytest.approx(50)
    lettered = [choice(i, ("(A)", "(B)", "(C)")) for i in (0, 2, 1)]
    assert metrics.score("pearson", lettered, [0, 2, 1])["pearson"] == 100


def test_exact_match_folds_white_space_only():
    targets = [text("x + 1"), text("Paris", "paris")]
    assert metrics.score("exact_match", targets, ["x  + 1", "PARIS"])["exact_match"] == 50


def test_squad_takes_the_best_reference_without_articles_and_punctuation():
    targets = [text("the Eiffel Tower", "Tower of Paris"), text("unanswerable")]
    got = metrics.score("squad", targets, ["Eiffel tower!", "in 1889"])
    assert list(got) == ["f1", "em"] and got["f1"] == 50 and got["em"] == 50
    # 'big red bus' against 'red bus' : precision 2/3, recall 1.
    assert metrics.score("squad", [text("red bus")], ["a big red bus"])["f1"] == pytest.approx(80)
    # Punctuation joins in SQuAD and separates in TriviaQA.
    assert metrics.score("squad", [text("jack o lantern")], ["jack-o-lantern"])["em"] == 0
    got = metrics.score("trivia_qa", [text("jack o lantern")], ["Jack-o‘lantern"])
    assert list(got) == ["em", "f1"] and got["em"] == 100


def test_multirc_is_f1_over_answers_and_exact_match_over_questions():
    targets = [
        choice(1, group="q1"),
        choice(0, group="q1"),
        choice(1, group="q2"),
        choice(0, group="q2"),
    ]
    got = metrics.score("multirc", targets, [1, 0, 1, 1])
    assert got["f1a"] == pytest.approx(80) and got["em"] == 50
    assert got["em"].stderr == pytest.approx(100 * math.sqrt(0.25 / 1))


def test_record_means_over_groups():
    cities = ("Rome", "Oslo", "Lima")
    targets = [
        choice(0, cities, group="a", references=["Rome", "Lima"]),
        choice(2, cities, group="a"),
        choice(1, cities, group="b"),
    ]
    assert metrics.score("record", targets, [2, 2, 0])["em"] == 50
    assert metrics.score("record", targets, [2, 1, 1])["em"] == 75
    # One of three words of a name: F1 1/2; the mean over the rows of 'a' and then over groups.
    targets[0]["references"] = ["Rome Lazio Italy"]
    got = metrics.score("record", targets, [2, 2, 0])
    assert got["f1"] == pytest.approx(100 * ((0 + 1) / 2 + 0) / 2)
    assert metrics.score("record", targets, [0, 1, 0])["f1"] == pytest.approx(
        100 * ((1 + 0) / 2 + 0) / 2
    )
    assert got["em"].stderr == pytest.approx(100 * 0.25)


def test_bleu_is_sacrebleus_corpus_score():
    predictions = [
        "The quick brown fox jumped over a lazy dog.",
        "Hello!",
        "Seven men went home. They were tired.",
        "",
    ]
    references = [
        [t["references"][0] if t["references"] else None for t in TEXTS],
        [t["answer"] for t in TEXTS],
    ]
    theirs = sacrebleu.corpus_bleu(predictions, references, tokenize="intl")
    ours = metrics.score("bleu", TEXTS, predictions)["bleu"]
    assert ours == pytest.approx(theirs.score) and 0 < ours.stderr < 50
    assert "tok:intl" in metrics.signature("bleu") and sacrebleu.__version__ in metrics.signature(
        "bleu"
    )


@pytest.mark.parametrize("name", metrics.METRICS)
def test_every_metric_has_a_signature_of_one_line(name):
    text = metrics.signature(name)
    assert len(text) > 40 and "\n" not in text and text.isprintable()


def test_bleu_takes_matches_from_all_references_of_a_row_and_the_nearest_length():
    # 'a b c d e' against 'a b c d x' and 'a b c y e': 5 of 5 words, 3 of 4, 2 of 3 and 1 of 2 runs;
    # no brevity penalty.
    target = text("a b c d x", "a b c y e")
    assert metrics.score("bleu", [target], ["a b c d e"])["bleu"] == pytest.approx(
        100 * (1 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    )
    # 4 words against 5: all runs are right, and the brevity penalty is exp(1 - 5 / 4).
    assert metrics.score("bleu", [text("a b c d e")], ["a b c d"])["bleu"] == pytest.approx(
        100 * math.exp(1 - 5 / 4)
    )
    # No run of four words is right: exponential smoothing gives it half a match.
    assert metrics.score("bleu", [text("a b c d")], ["a b c e"])["bleu"] == pytest.approx(
        100 * (3 / 4 * 2 / 3 * 1 / 2 * (1 / 2) / 1) ** 0.25
    )


def test_word_f1_of_several_references_and_of_nothing_to_find():
    # 'red bus stop' against 'bus' (1/3 and 1/1: 1/2) and 'the bus stop now' (2/3 and 2/3: 2/3).
    for name in ("squad", "trivia_qa"):
        got = metrics.score(name, [text("bus", "the bus stop now")], ["red bus stop"])
        assert got["f1"] == pytest.approx(100 * 2 / 3) and got["em"] == 0
        # A reference of articles and punctuation alone has no word to find.
        assert metrics.score(name, [text("The!")], ["a"])["f1"] == 100
        assert metrics.score(name, [text("The!")], ["bus"])["f1"] == 0


def test_rouge_by_hand():
    got = metrics.score("rouge", [text("the cat sat down")], ["The cat sat!"])
    # 3 of 3 and 3 of 4 words; 2 of 2 and 2 of 3 bigrams; longest common subsequence 3.
    assert list(got) == ["rouge1", "rouge2", "rougeLsum"]
    assert got["rouge1"] == pytest.approx(100 * 6 / 7)
    assert got["rouge2"] == pytest.approx(100 * 4 / 5)
    assert got["rougeLsum"] == pytest.approx(100 * 6 / 7)
    # Sentences may change places in rougeLsum.
    assert (
        metrics.score("rouge", [text("One came. Two left.")], ["Two left. One came."])["rougeLsum"]
        == 100
    )
    # Words are not stemmed: 2 of 3 words.
    assert metrics.score("rouge", [text("the cats sat")], ["the cat sat"])[
        "rouge1"
    ] == pytest.approx(100 * 2 / 3)
    # Of several references each kind takes its best: 2 of 2 words of the first, 1 of 1 bigram of
    # the second.
    got = metrics.score("rouge", [text("b a", "a b c")], ["a b"])
    assert got["rouge1"] == 100 and got["rouge2"] == pytest.approx(100 * 2 / 3)


def test_edit_similarity_is_one_minus_the_distance_over_the_longer_text():
    assert metrics.score("edit_similarity", [text("sitting")], ["kitten"])[
        "edit_similarity"
    ] == pytest.approx(100 * (1 - 3 / 7))
    assert metrics.score("edit_similarity", [text("abc"), text("abc")], ["", "abd"])[
        "edit_similarity"
    ] == (pytest.approx(100 / 3))
    assert (
        metrics.score("edit_similarity", [text("abcd", "wxyz", "wxy")], ["wxy"])["edit_similarity"]
        == 100
    )


def test_two_metrics_with_one_key_are_both_there_under_their_names():
    got = metrics.score_all(
        ("squad", "trivia_qa", "rouge"), [text("jack o lantern")], ["jack-o-lantern"]
    )
    assert list(got) == [
        "squad_f1",
        "squad_em",
        "trivia_qa_em",
        "trivia_qa_f1",
        "rouge1",
        "rouge2",
        "rougeLsum",
    ]
    assert (got["squad_em"], got["trivia_qa_em"]) == (0, 100)


def test_rows_of_a_group_are_one_unit_of_the_standard_error():
    """Every row twice.

    The numbers stay, and so do their errors, which as single rows would be too small.
    """
    rows = [text("a b c d e", group=f"g{i}") for i in range(6)] * 2
    said = ["a b c d e", "a b c d x", "a b x d e", "a b c d e", "x b c d e", "a b c"] * 2
    for name in ("bleu", "squad", "rouge", "exact_match", "edit_similarity"):
        once = metrics.score(name, rows[:6], said[:6])
        twice = metrics.score(name, rows, said)
        for key, number in once.items():
            assert twice[key] == pytest.approx(number), key
            assert twice[key].stderr == pytest.approx(number.stderr, rel=0.02), key
    assert metrics.score("matthews", CHOICES * 2, [1, 1, 1, 0, 0] * 2)["matthews"].stderr > 0


def test_numbers_are_read_with_and_without_a_leading_digit():
    scale = choice(0, (".5", "-.5", "2.75", "3"), value=0.5)
    assert [number_of(scale, i) for i in range(4)] == [0.5, -0.5, 2.75, 3.0]
    assert number_of(text("x"), "about .25 or so") == 0.25
    assert [number_of(text("x"), "9" * digits) for digits in (9, 200, 400)] == [1e9 - 1, -1, -1]


def test_bootstrap_agrees_with_a_formula_and_repeats():
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 2, 400)
    targets = [choice(int(label)) for label in labels]
    predictions = [int(label) if generator.random() < 0.7 else 1 - int(label) for label in labels]
    first, again = (metrics.score("matthews", targets, predictions)["matthews"] for _ in range(2))
    # For balanced classes Matthews' correlation is 2 p - 1, so its error is twice that of the
    # accuracy p.
    accuracy = metrics.score("accuracy", targets, predictions)["accuracy"]
    assert first.stderr == again.stderr == pytest.approx(2 * accuracy.stderr, rel=0.2)


def test_a_wrong_name_or_number_of_predictions_is_explained():
    with pytest.raises(UserError, match="did you mean accuracy"):
        metrics.score("acuracy", CHOICES, [1] * 5)
    with pytest.raises(UserError, match="4 predictions for 5 targets"):
        metrics.score("accuracy", CHOICES, [1] * 4)
    with pytest.raises(UserError, match="0 predictions"):
        metrics.score("accuracy", [], [])
