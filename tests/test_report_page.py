"""report.html: what it shows, that no text of a row is markup, and how it works in a browser."""

import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.config import run_status
from flan_jax.data.shards import EvalExamples
from flan_jax.evaluation.known_runs import remember_run
from flan_jax.evaluation.result_rows import UNTUNED, Setting, write_results
from flan_jax.evaluation.template_evaluation import evaluate_templates
from flan_jax.report import __main__ as verb
from flan_jax.report.page.escaping import json_for_script
from flan_jax.report.page.inline_figures import inline_svg

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
# Each of these has broken a page somewhere.
NASTY = [
    "</script><img src=x onerror=\"document.title='broken'\">",
    "<!-- <script>document.title='broken'</script> -->",
    "line\u2028separator\u2029and\u0000nul \x1b[31m",
    "\"double\" 'single' `back` \\ ${dollar} &amp; &lt;",
    "😀 👩‍🚀 naïve",
    "שלום עולם, مرحبا بالعالم",
]


def ranked(dataset, template, count, prompts=(), options=("no", "yes")):
    """Rows with options; the label of row i is that of bit i."""
    prompts = [*prompts, *(f"{template}: row {i}?" for i in range(len(prompts), count))]
    texts = [
        {"inputs": prompts[i], "options": list(options), "label": i % 2, "answer": options[i % 2]}
        for i in range(count)
    ]
    ids = [np.array([i], np.int32) for i in range(count)]
    choices = [[np.array([0]), np.array([1])]] * count
    names = [f"{dataset}/test/{i}" for i in range(count)]
    return EvalExamples(dataset, "test", template, "forward", names, ids, choices, texts)


def written(dataset, template, answers):
    """Rows of free text, each with two references."""
    texts = [
        {"inputs": f"Say {answer}.", "answer": answer, "references": [f"the {answer}", answer]}
        for answer in answers
    ]
    names = [f"{dataset}/test/{i}" for i in range(len(answers))]
    ids = [np.array([i], np.int32) for i in range(len(answers))]
    return EvalExamples(dataset, "test", template, "forward", names, ids, None, texts)


def guesses(seed):
    """A model that prefers an option by a generator with this seed."""
    generator = np.random.default_rng(seed)
    return lambda inputs, options: [
        -10 * generator.random(len(choices)).astype(np.float32) for choices in options
    ]


def make_run(directory, examples, seed=0, record=None, untuned_mode="template"):
    """Writes what an evaluation leaves in the directory of a run, tuned and untuned."""
    rows = []
    settings = [
        Setting(directory.name, 10, "tuned", "t5_tiny"),
        Setting(directory.name, 0, UNTUNED, "t5_tiny", instruction_mode=untuned_mode),
    ]
    for number, setting in enumerate(settings):
        for result in evaluate_templates(
            examples,
            CATALOGUE,
            setting,
            guesses(seed + number),
            lambda inputs: [("it", True)] * len(inputs),
            lambda options: np.zeros(len(options), np.float32),
            directory / "predictions" / setting.model,
        ):
            rows += result.rows
    write_results(directory / "results.csv", rows)
    remember_run(directory, directory, ["squad"], "bundled")
    if record is not None:
        (directory / run_status.FILE).write_text(json.dumps(record))
    return directory


RECORD = {
    "status": "finished",
    "started": "2026-01-02T03:04:05+00:00",
    "seconds": 3725,
    "size": "t5_tiny",
    "parameters": 1_674_240,
    "trained_parameters": 20_480,
    "step": 10,
    "steps": 10,
    "settings": {"HELD_OUT": "nli", "SEED": 0},
}


@pytest.fixture
def run(tmp_path):
    """A run with rows that would break a careless page, in two templates, and generated text."""
    examples = [ranked("rte", name, 12, NASTY) for name in ("terse", "plain")]
    examples += [ranked("cb", "plain", 8, options=("</script>", "yes <b>&amp;"))]
    examples += [written("xsum", "short", ["cat", "<i>dog</i>"])]
    return make_run(tmp_path / "run", examples, record=RECORD)


def lines_of(path):
    """The lines of a file of predictions; U+2028 ends none."""
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def report(*arguments):
    assert verb.main([str(argument) for argument in arguments]) == 0


def page_of(directory):
    return (directory / "report.html").read_text(encoding="utf-8")


class Parsed(html.parser.HTMLParser):
    """Tags with their attributes, texts by tag, and the rows embedded in a page."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.text, self._open = [], [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        else:
            self.text += data

    @property
    def rows(self):
        return json.loads(self.scripts[0])


def test_the_page_shows_every_line_and_row_and_no_text_of_a_row_is_markup(run):
    report(run)
    page = Parsed(page_of(run))
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 2 and not {"img", "b", "i", "iframe"} & set(names)
    assert not [name for _, attributes in page.tags for name in attributes if name[:2] == "on"]
    lines = [a for tag, a in page.tags if tag == "td" and a.get("class") == "dataset"]
    assert len(lines) == 4  # three datasets and the mean of two
    tasks = {(task["dataset"], task["template"]): task for task in page.rows["tasks"]}
    assert {key: len(task["rows"]) for key, task in tasks.items()} == {
        ("rte", "terse"): 12,
        ("rte", "plain"): 12,
        ("cb", "plain"): 8,
        ("xsum", "short"): 2,
    }
    prompts = [row["prompt"] for row in tasks["rte", "terse"]["rows"]]
    assert prompts[: len(NASTY)] == NASTY
    assert tasks["cb", "plain"]["rows"][0]["options"] == ["</script>", "yes <b>&amp;"]
    assert tasks["xsum", "short"]["rows"][1]["references"] == ["the <i>dog</i>", "<i>dog</i>"]


def test_both_models_have_their_scores_and_the_counts_are_of_all_rows(run):
    report(run)
    (task,) = (t for t in Parsed(page_of(run)).rows["tasks"] if t["template"] == "terse")
    (model,) = task["runs"]
    lines = {
        name: lines_of(run / f"predictions/{name}/rte.test.terse.jsonl")
        for name in ("tuned", "untuned")
    }
    for name, said in lines.items():
        assert [p["s"] for p in model[name]] == [line["score"] for line in said]
        np.testing.assert_allclose(
            [p["p"] for p in model[name]], [line["scores"] for line in said], atol=6e-4
        )
        chosen = [line["options"][p["c"]] for p, line in zip(model[name], said)]
        assert chosen == [line["prediction"] for line in said]
    pairs = [(a["score"], b["score"]) for a, b in zip(lines["tuned"], lines["untuned"])]
    assert model["total"] == 12 and model["counts"] == {
        "wrong": sum(a < 100 for a, _ in pairs),
        "better": sum(a > b for a, b in pairs),
        "worse": sum(a < b for a, b in pairs),
    }
    assert model["counts"]["better"] and model["counts"]["worse"]


def test_the_page_needs_no_network_and_is_the_same_every_time(run):
    report(run)
    before = page_of(run)
    page = Parsed(before)
    links = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "action", "data", "poster")
    ]
    assert links and not [link for link in links if re.match(r"\w+:|//", link)]
    (policy,) = (a["content"] for _, a in page.tags if "http-equiv" in a)
    assert "default-src 'none'" in policy
    status = (run / "report.html").stat()
    report(run)
    assert page_of(run) == before
    assert (run / "report.html").stat().st_mtime_ns == status.st_mtime_ns
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_rows_that_do_not_fit_are_counted_and_said_to_be_elsewhere(tmp_path, monkeypatch):
    long = [f"{i} " + "word " * 400 for i in range(300)]
    run = make_run(tmp_path / "run", [ranked("rte", "plain", 300, long), ranked("rte", "b", 300)])
    report(run)
    page = page_of(run)
    data = Parsed(page).rows
    by_template = {task["template"]: task for task in data["tasks"]}
    assert len(page.encode()) < 460_000
    assert 20 < len(by_template["plain"]["rows"]) <= 60 == len(by_template["b"]["rows"])
    for task in data["tasks"]:
        (model,) = task["runs"]
        assert model["total"] == 300 and len(model["tuned"]) == len(task["rows"])
        # By turns: as many that tuning changed as others, while there are both.
        changed = sum(a["s"] != b["s"] for a, b in zip(model["tuned"], model["untuned"]))
        assert abs(changed - len(task["rows"]) / 2) <= 1
    assert data["models"] == [{"label": "tuned", "directory": "predictions/tuned"}]
    # What is drawn depends on no other row: a shorter evaluation draws from the same order.
    lines = {row["row"] for row in by_template["b"]["rows"]}
    assert lines < {f"rte/test/{i}" for i in range(300)}


def test_fourteen_runs_with_long_names_stay_small_and_name_what_differs(tmp_path):
    names = [f"{'a_name_of_forty_letters_for_one_run_':_<38}{i:02d}" for i in range(14)]
    for i, name in enumerate(names):
        record = {**RECORD, "settings": {"HELD_OUT": "nli", "LEARNING_RATE": i, "SIZE": "t5"}}
        examples = [
            ranked(dataset, f"template_{t}", 40, [f"{d} {'word ' * 80}" for d in range(40)])
            for dataset in ("rte", "wnli")
            for t in range(3)
        ]
        make_run(tmp_path / name, examples, seed=i, record=record)
    report(*(tmp_path / name for name in names), f"--output={tmp_path / 'all'}")
    page = page_of(tmp_path / "all")
    assert len(page.encode()) < 500_000
    text = Parsed(page).text
    assert all(name in text for name in names)
    assert "LEARNING_RATE=13" in text and "HELD_OUT=" not in text
    tasks = Parsed(page).rows["tasks"]
    assert len(tasks) == 6 and all(task["rows"] and len(task["runs"]) == 14 for task in tasks)


def test_means_over_other_datasets_say_which_as_the_table_does(tmp_path):
    one = make_run(tmp_path / "one", [ranked(d, "t", 4) for d in ("rte", "cb")])
    other = make_run(tmp_path / "other", [ranked(d, "t", 4) for d in ("rte", "wnli")])
    report(one, other, f"--output={tmp_path / 'both'}")
    text = Parsed(page_of(tmp_path / "both")).text
    assert "mean of 2 datasets: cb, rte" in text and "mean of 2 datasets: rte, wnli" in text


def test_runs_have_state_step_parameters_time_and_settings(run):
    report(run)
    text = Parsed(page_of(run)).text
    for shown in ("finished", "10 of 10", "1.67 M (20.5 k trained)", "1 h 02 min", "HELD_OUT"):
        assert shown in text, shown


def test_seeds_are_one_line_whose_runs_have_rows_of_their_own(tmp_path):
    for seed in (0, 1):
        record = {**RECORD, "settings": {"HELD_OUT": "nli", "SEED": seed}}
        make_run(tmp_path / f"nli-seed_{seed}", [ranked("rte", "t", 8)], seed, record)
    report(*tmp_path.iterdir(), f"--output={tmp_path / 'both'}")
    page = Parsed(page_of(tmp_path / "both"))
    (line,) = [a for tag, a in page.tags if tag == "td" and a.get("class") == "seeds"]
    assert float(line["data-value"]) >= 0 and "std over seeds" in page.text
    (task,) = page.rows["tasks"]
    labels = [page.rows["models"][run["model"]]["label"] for run in task["runs"]]
    assert labels == ["tuned, nli-seed_0", "tuned, nli-seed_1"]
    assert all(len(run["tuned"]) == len(run["untuned"]) == 8 for run in task["runs"])


@pytest.mark.parametrize("strange", [{"status": 7}, {"settings": ["a"]}, {"seconds": "long"}])
def test_a_damaged_record_of_a_run_is_a_clear_message(run, strange):
    (run / run_status.FILE).write_text(json.dumps({**RECORD, **strange}))
    with pytest.raises(verb.UserError, match=f"run.json is not readable .{next(iter(strange))} is"):
        report(run)


def test_an_untuned_model_with_other_prompts_is_named(tmp_path):
    run = make_run(tmp_path / "run", [ranked("rte", "t", 4)], untuned_mode="baseline")
    report(run)
    page = Parsed(page_of(run))
    (task,) = page.rows["tasks"]
    assert task["runs"][0]["untuned_setting"] == "baseline"
    (cell,) = re.findall('<td class="untuned".*?</td>', page_of(run))
    assert "(baseline)" in cell
    assert "q" not in task["runs"][0]["untuned"][0]  # here the prompts are the same
    file = run / "predictions/untuned/rte.test.t.jsonl"
    file.write_text(file.read_text().replace('"prompt": "t: ', '"prompt": "Q: '))
    report(run)
    (task,) = Parsed(page_of(run)).rows["tasks"]
    assert task["rows"][1]["prompt"] == "t: row 1?"
    assert task["runs"][0]["untuned"][1]["q"] == "Q: row 1?"


def test_rows_of_one_id_and_other_texts_are_not_confused(tmp_path):
    for name, texts in (("one", ["of one source"]), ("other", ["of another"])):
        make_run(tmp_path / name, [ranked("rte", "t", 4, texts)])
    report(tmp_path / "one", tmp_path / "other", f"--output={tmp_path / 'both'}")
    data = Parsed(page_of(tmp_path / "both")).rows
    shown = {
        data["models"][run["model"]]["label"]: task["rows"][0]["prompt"]
        for task in data["tasks"]
        for run in task["runs"]
    }
    assert shown == {"one": "of one source", "other": "of another"}


def test_a_sweep_lists_points_without_results_and_why(tmp_path):
    points = {name: {"gin_files": [], "settings": {}} for name in ("one", "two", "three")}
    (tmp_path / "sweep.json").write_text(json.dumps({"arguments": [], "points": points}))
    make_run(tmp_path / "one", [ranked("rte", "t", 4)], record=RECORD)
    (tmp_path / "two").mkdir()
    message = "LEARNING_RATE <script>alert(1)</script> is not finite"
    (tmp_path / "two" / run_status.FILE).write_text(
        json.dumps({"status": "failed", "step": 3, "steps": 10, "message": message})
    )
    report(tmp_path)
    text = Parsed(page_of(tmp_path)).text
    assert "2 of 3 runs are not finished: two (failed), three (not started)." in text
    assert "3 of 10" in text and message in text and "not started" in text


def test_predictions_of_before_scores_were_kept_are_shown(run):
    for path in run.glob("predictions/*/*.jsonl"):
        lines = lines_of(path)
        for line in lines:
            line.pop("score")
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report(run)
    (task,) = (t for t in Parsed(page_of(run)).rows["tasks"] if t["template"] == "terse")
    lines = lines_of(run / "predictions/tuned/rte.test.terse.jsonl")
    right = [line["prediction"] == line["answer"] for line in lines]
    assert [p["s"] for p in task["runs"][0]["tuned"]] == [100.0 * each for each in right]


def test_a_damaged_file_of_predictions_is_a_clear_message(run):
    path = run / "predictions/tuned/rte.test.terse.jsonl"
    path.write_text(path.read_text().replace('"options": [', '"options": [1, ', 1))
    with pytest.raises(verb.UserError, match="rte.test.terse.jsonl is not readable"):
        report(run)


def test_without_predictions_the_page_has_the_table(run):
    shutil.rmtree(run / "predictions")
    report(run)
    page = Parsed(page_of(run))
    assert page.rows == {"models": [], "tasks": []} and "rte" in page.text


def test_an_inline_figure_has_ids_and_classes_of_its_own_and_the_same_picture():
    svg = """<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD" "http://www.w3.org/x.dtd">
<svg xmlns:xlink="http://www.w3.org/1999/xlink"><metadata>http://x.org</metadata>
 <defs><path id="a" d="M 1.23456 2 \nL 3 4.5" style="fill: none"/></defs>
 <g id="unused"><use xlink:href="#a" style="fill: red"/></g>
 <g clip-path="url(#p)" id="p" style="fill: none"/>
 <text transform="rotate(-0 1 2)">1.23456</text>
</svg>"""
    assert inline_svg(svg, "f1-") == (
        '<svg xmlns:xlink="http://www.w3.org/1999/xlink">'
        "<style>.f1-0{fill: none}.f1-1{fill: red}</style>"
        '<defs><path id="f1-a" d="M 1.23 2 L 3 4.5" class="f1-0"/></defs>'
        '<g><use xlink:href="#f1-a" class="f1-1"/></g>'
        '<g clip-path="url(#f1-p)" id="f1-p" class="f1-0"/>'
        "<text>1.23456</text></svg>"
    )


def test_json_in_a_script_ends_no_script_and_reads_back():
    packed = json_for_script(NASTY)
    assert not set("<>&\u2028\u2029\x00") & set(packed) and json.loads(packed) == NASTY


# In a browser, with the network off.


def dom(directory, state=""):
    """The page as headless Chromium has it once it is drawn."""
    result = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"),
            "--host-resolver-rules=MAP * ~NOTFOUND",
            *("--virtual-time-budget=3000", "--dump-dom"),
            f"file://{directory / 'report.html'}#{state}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert 'data-ready="1"' in result.stdout and "broken" not in result.stdout.split("<body")[0]
    return result.stdout


def table_lines(page, key):
    """What a column of the results has, from top to bottom, in the lines that are not hidden."""
    body = page.split('<table id="results-table">')[1].split("</table>")[0]
    lines = [line for line in body.split("<tr")[2:] if not line.split(">")[0].count("hidden")]
    cell = re.compile(rf'<td class="{key}"[^>]*>(.*?)</td>', re.DOTALL)
    return [re.sub("<.*?>", "", cell.search(line)[1]) for line in lines]


@pytest.fixture(scope="module")
def browsed(tmp_path_factory):
    examples = [ranked("rte", name, 12, NASTY) for name in ("terse", "plain")]
    examples += [ranked(name, "plain", 8) for name in ("cb", "wnli")]
    examples += [written("xsum", "short", ["cat", "<i>dog</i>"])]
    run = make_run(tmp_path_factory.mktemp("page") / "run", examples, record=RECORD)
    report(run)
    return run


@needs_chromium
def test_a_browser_draws_all_lines_and_rows_without_a_network(browsed):
    page = dom(browsed, "tab=rows&dataset=rte&template=all+templates")
    assert len(table_lines(page, "dataset")) == 5
    assert page.count('<article class="card">') == 24
    cards = page.split('<div id="cards">')[1].split("</section>")[0]
    # The row's markup is text here, and none of it an element.
    assert "&lt;/script&gt;&lt;img src=x onerror=" in cards and "<img" not in page
    assert "שלום עולם, مرحبا بالعالم" in cards and "😀 👩‍🚀 naïve" in cards
    assert cards.count("chosen") >= 48


@pytest.mark.slow
@needs_chromium
def test_a_browser_sorts_and_filters_by_the_address(browsed):
    page = dom(browsed, "sort=tuned&desc=1&filter=nli+-mean")
    values = [float(text) for text in table_lines(page, "tuned")]
    assert len(values) == 3 and values == sorted(values, reverse=True)
    assert 'aria-sort="descending"' in page and "3 of 5 lines" in page
    names = table_lines(dom(browsed, "sort=dataset&filter=tuned>=0+metric=accuracy"), "dataset")
    assert names == sorted(names, key=str.lower) and "xsum" not in names and len(names) == 4


@pytest.mark.slow
@needs_chromium
def test_a_browser_shows_what_tuning_made_wrong_and_what_a_text_finds(browsed):
    report(browsed)
    (task,) = (t for t in Parsed(page_of(browsed)).rows["tasks"] if t["template"] == "terse")
    (model,) = task["runs"]
    page = dom(browsed, "tab=rows&dataset=rte&template=terse&show=worse")
    assert page.count('<article class="card">') == model["counts"]["worse"] > 0
    page = dom(browsed, "tab=rows&dataset=rte&template=terse&text=ROW+11")
    assert page.count('<article class="card">') == 1 and "rte/test/11" in page
    page = dom(browsed, "tab=rows&dataset=xsum&theme=dark")
    assert 'data-theme="dark"' in page and "it … (length limit)" in page
