"""The language of MIXTURE_OR_TASK_NAME: parts, caps and shares."""

import pytest

from flan_jax.data.mixture_language import (
    Part,
    is_path,
    parse,
    with_paths,
    without_own,
)
from flan_jax.data.train_parts import Rates
from flan_jax.errors import UserError


@pytest.mark.parametrize(
    "text, parts",
    [
        ("rte", [Part(("rte",))]),
        ("rte:200+some.seqio_task", [Part(("rte",), 200), Part(("some.seqio_task",))]),
        (
            "flan + my.jsonl:3_000+d/dolly.parquet.gz:12.5%",
            [
                Part(("flan",)),
                Part(("my.jsonl",), 3000),
                Part(("d/dolly.parquet.gz",), None, 0.125),
            ],
        ),
        ("hf:tatsu-lab/alpaca:52000", [Part(("hf:tatsu-lab/alpaca",), 52000)]),
        (
            "flan:30000:40%+(a.jsonl+b/*.csv):60%:100",
            [Part(("flan",), 30000, 0.4), Part(("a.jsonl", "b/*.csv"), 100, 0.6)],
        ),
        ("a:b", [Part(("a:b",))]),  # SeqIO's names may have colons
    ],
)
def test_parts(text, parts):
    assert parse(text) == parts
    assert parse(with_paths(text, lambda path: path)) == parts


@pytest.mark.parametrize(
    "text, says",
    [
        ("flan+", "a part is empty"),
        ("flan++rte", "a part is empty"),
        (":3000", "a part is empty"),
        ("(a+b", "a parenthesis is not closed"),
        ("a)+b", "parentheses come in pairs"),
        ("((a))", "not one within another"),
        ("a(b)", "a parenthesis within a name"),
        ("my.jsonl:1:2", "has two caps"),
        ("my.jsonl:0", "is never drawn"),
        ("my.jsonl:120%", "more than always"),
        ("my.jsonl:fast", "'fast' after my.jsonl is not a number or a percentage"),
        ("flan:-3", "'-3' after flan is not a number"),
        ("rte+rte", "it names 'rte' twice"),
        ("a:50%+b:60%", "the shares add up to 110%, not to 100%"),
        ("a:40%", "the shares add up to 40%, not to 100%"),
        ("a:40%+b:60%+c", "leave nothing to the rest"),
    ],
)
def test_a_mistake_is_one_message(text, says):
    with pytest.raises(UserError, match=r"MIXTURE_OR_TASK_NAME .*parts are joined by") as error:
        parse(text)
    assert says in str(error.value)


def test_paths_are_what_is_written_as_one():
    paths = ["a.jsonl", "a.JSON.GZ", "./rte", "~/data", "t0/*", "/x"]
    assert all(map(is_path, paths))
    assert not any(map(is_path, ["rte", "flan", "flan_rte.is_it_entailed", "hf:a/b", "x.txt"]))
    text = with_paths("flan:3000+(a.jsonl+rte):5:10%", lambda path: f"/home/{path}")
    assert text == "flan:3000+(/home/a.jsonl+rte):5:10%"
    assert with_paths("flan+", str.upper) == "flan+"
    assert without_own("flan:30%+(a.jsonl+rte+hf:a/b):5:70%") == "flan+rte"
    assert without_own("a.jsonl") is None


def test_rates_are_capped_rows_and_shares_of_all_draws():
    rows = {"a": 10_000, "b": 100, "c": 500, "d": 1_500}
    assert Rates().of(rows, {}) == {"a": 3000, "b": 100, "c": 500, "d": 1500}
    assert Rates({"a": 200}).of(rows, {"d": 7.5}) == {"a": 200, "b": 100, "c": 500, "d": 7.5}
    # two levels: c and d divide a quarter of all draws like 500 to 1,000
    two = Rates({"a": 200, "d": 1000}, [(frozenset("cd"), 0.25)]).of(rows, {})
    assert (two["a"], two["b"]) == (200, 100)
    assert two["c"] + two["d"] == pytest.approx(100) and two["d"] == pytest.approx(2 * two["c"])
    # shares alone; what is left out leaves its share to the others
    shares = [(frozenset("ab"), 0.4), (frozenset("cd"), 0.6)]
    both = Rates({}, shares).of(rows, {})
    assert (both["a"] + both["b"]) / sum(both.values()) == pytest.approx(0.4)
    assert Rates({}, shares).of({"c": 1, "d": 3}, {})["d"] == pytest.approx(3)


@pytest.mark.parametrize("directory", ["/c++", "/Proj (old)", "/a:5/b", "/back\\slash"])
def test_a_path_with_marks_of_the_language_is_read_back(directory):
    text = with_paths("v/:500+(a.jsonl+b.jsonl):30%+flan", lambda path: f"{directory}/{path}")
    paths = [f"{directory}/{name}" for name in ("v/", "a.jsonl", "b.jsonl")]
    assert [name for part in parse(text) for name in part.names] == [*paths, "flan"]
    assert with_paths(text, lambda path: path) == text
    assert parse(r"my \(1\).jsonl:3")[0] == Part(("my (1).jsonl",), 3)
