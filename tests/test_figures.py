"""Figures: every drawn number is a result, nothing overlaps, the same numbers make the same files.

The runs are fabricated: what is drawn matters here, not how a model learns.
"""

import csv
import dataclasses
import itertools
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from flan_jax.catalogue.clusters import CLUSTERS
from flan_jax.errors import UserError
from flan_jax.report import __main__ as verb
from flan_jax.report.comparisons import compare
from flan_jax.report.figures import style
from flan_jax.report.figures.figure_files import draw, make_figures
from flan_jax.report.figures.registry import FIGURES
from flan_jax.report.figures.report_data import ReportData
from flan_jax.report.inputs import read_rows
from flan_jax.report.run_facts import read_facts
from support.fabricated_runs import Fabricated, write_run

LONG = "a_model_with_a_rather_long_name_of_forty"


def data_of(directory: pathlib.Path, **runs: Fabricated) -> ReportData:
    """Writes the runs and returns what a report makes figures of."""
    for name, run in runs.items():
        write_run(directory / name, run)
    inputs = read_rows(sorted(directory.rglob("results.csv")))
    lines = compare(inputs.rows, inputs.measures, inputs.seeds)
    return ReportData(lines, {"bundled"}, read_facts(inputs.homes))


def drawing(data: ReportData, name: str):
    """Returns a Matplotlib figure of the data, and its points."""
    figure, points = FIGURES[name], FIGURES[name].points(data)
    with style.styled(name):
        drawn = figure.draw(points, figure.caption(points, data))
        drawn.set_dpi(100)
        FigureCanvasAgg(drawn).draw()
    return drawn, points


def check_layout(figure) -> None:
    """Every text and the legend are inside the picture, and no text is on another."""
    renderer = figure.canvas.get_renderer()
    width, height = figure.bbox.width, figure.bbox.height
    assert round(figure.get_figwidth(), 2) in (3.4, 6.75)
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown_texts(figure)]
    legends = [("legend", legend.get_window_extent(renderer)) for legend in figure.legends]
    for text, box in [*boxes, *legends]:
        assert box.x0 > -1 and box.y0 > -1, text
        assert box.x1 < width + 1 and box.y1 < height + 1, text
    for (one, box), (other, its) in itertools.combinations(boxes, 2):
        across = min(box.x1, its.x1) - max(box.x0, its.x0)
        down = min(box.y1, its.y1) - max(box.y0, its.y0)
        assert across < 1 or down < 1, f"{one!r} and {other!r}"
    axes_end = min(axes.get_tightbbox(renderer).y0 for axes in figure.axes)
    assert all(box.y1 < axes_end for _, box in legends)


def shown_texts(figure) -> list[Text]:
    """Returns the texts of a figure that are seen."""
    hidden = set()
    for axes in figure.axes:
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not min(limits) <= tick.get_loc() <= max(limits):
                    hidden |= {tick.label1, tick.label2}
    texts = dict.fromkeys(figure.findobj(Text))
    return [t for t in texts if t.get_visible() and t.get_text().strip() and t not in hidden]


def test_every_drawn_number_is_one_of_results_csv(tmp_path):
    write_run(tmp_path / "run", Fabricated())
    assert verb.main([str(tmp_path / "run")]) == 0
    with open(tmp_path / "run/results.csv", newline="") as file:
        results = list(csv.DictReader(file))
    with open(tmp_path / "run/figures/template_spread.csv", newline="") as file:
        points = [point for point in csv.DictReader(file) if point["x"] != "mean"]
    known = {
        (row["model"], row["dataset"], row["template"]): float(row["value"]) for row in results
    }
    drawn = {(p["kind"], p["dataset"], p["x"]): float(p["value"]) for p in points}
    expected = {key: value for key, value in known.items() if key[0] != "majority"}
    assert drawn == pytest.approx(expected, abs=1e-9)
    with open(tmp_path / "run/figures/zero_shot.csv", newline="") as file:
        means = {(p["kind"], p["dataset"]): p for p in csv.DictReader(file)}
    for kind, dataset in itertools.product(("tuned", "untuned"), ("anli_r1", "rte")):
        values = [v for (m, d, _), v in known.items() if (m, d) == (kind, dataset)]
        point = means[kind, dataset]
        assert float(point["value"]) == pytest.approx(sum(values) / len(values), abs=1e-9)
        assert float(point["low"]) < float(point["value"]) < float(point["high"])
    with open(tmp_path / "run/figures/difference.csv", newline="") as file:
        differences = {p["dataset"]: float(p["value"]) for p in csv.DictReader(file)}
    for dataset, value in differences.items():
        tuned, untuned = (float(means[kind, dataset]["value"]) for kind in ("tuned", "untuned"))
        assert value == pytest.approx(tuned - untuned, abs=1e-9)


def test_figures_of_a_sweep_equal_sweep_csv(tmp_path, capsys):
    runs = {name: run for name, run in SWEEPS["size"].items() if "nli" in name}
    for name, run in runs.items():
        write_run(tmp_path / name, run)
    points = {name: {"gin_files": [], "settings": {"HELD_OUT": "nli"}} for name in [*runs, "none"]}
    (tmp_path / "sweep.json").write_text(json.dumps({"arguments": [], "points": points}))
    assert verb.main([str(tmp_path)]) == 0
    assert "1 of 5 points are not finished: none" in capsys.readouterr().out
    with open(tmp_path / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(tmp_path / "figures/size.csv", newline="") as file:
        drawn = [point for point in csv.DictReader(file) if point["kind"] == "tuned"]
    assert {point["size"] for point in drawn} == {run.size for run in runs.values()}
    for point in drawn:
        values: dict[str, list[float]] = {}
        for row in rows:
            if row["size"] == point["size"] and row["model"] == "tuned":
                assert float(row["run.parameters"]) == float(point["x"])
                values.setdefault(row["dataset"], []).append(float(row["value"]))
        means = [sum(each) / len(each) for each in values.values()]
        assert float(point["value"]) == pytest.approx(sum(means) / len(means), abs=1e-9)


def test_the_same_numbers_make_the_same_files_without_dates(tmp_path):
    data = data_of(tmp_path, one=Fabricated())
    figures = make_figures(data)
    assert [figure.name for figure in figures] == ["zero_shot", "difference", "template_spread"]
    for figure in figures:
        files, again = draw(figure, data), draw(figure, data)
        assert files == again and set(files) == {"pdf", "svg", "png"}
        assert b"/Type /Font" in files["pdf"] and b"/Type3" not in files["pdf"]
        assert b"CreationDate" not in files["pdf"] and b"<dc:date>" not in files["svg"]
        # Text stays text.
        assert b">Natural language inference</text>" in files["svg"]


THREE = {
    "nli": ("rte", "cb"),
    "commonsense": ("copa", "hellaswag"),
    "closed_book_qa": ("arc_easy", "natural_questions"),
}
HARD = {
    "one": {"one": Fabricated()},
    "fourteen": {f"{LONG}_{i:02}"[-40:]: Fabricated(settings={"X": i}) for i in range(14)},
    "one_dataset_one_template": {"one": Fabricated({"sentiment": ["sst2"]}, templates=1)},
    "one_row": {"one": Fabricated(rows=1)},
    "twelve_clusters": {
        "one": Fabricated({name: [f"{name}_a", f"{name}_b"] for name in CLUSTERS}, rows=4)
    },
    "at_the_ends": {
        "all": Fabricated(accuracy=2.0, untuned=-1.0),
        "none": Fabricated(accuracy=-1.0, untuned=2.0),
    },
    "negative": {"one": Fabricated({"misc": ["cola"]}, metric="matthews", shift=0.8)},
    "two_metrics": {
        "one": Fabricated(THREE),
        "two": Fabricated({"nli": ["stsb"]}, metric="pearson", shift=0.5),
    },
    "no_difference": {"one": Fabricated(untuned=0.6)},
    "no_untuned": {"one": Fabricated(untuned=None)},
    "long_datasets": {"one": Fabricated({"nli": [f"{LONG}_{LONG}_{i}" for i in "ab"]})},
    "other_rows": {"one": Fabricated(), "two": Fabricated(first_row=7), "three": Fabricated()},
    "other_datasets": {"one": Fabricated(), "two": Fabricated({"nli": ["rte", "cb"]})},
    "inverted": {
        "one": Fabricated({"translation": ["wmt14_enfr", "wmt16_translate_deen"]}, metric="bleu"),
        "two": Fabricated({"translation": ["wmt14_enfr"]}, metric="bleu", kind="inverted"),
    },
    "seeds": {
        f"{size}_{seed}": Fabricated(size=size, settings={"SEED": seed, "X": size})
        for size in ("t5_tiny", "t5_mini")
        for seed in (0, 1, 2)
    },
    "dollars": {"cost_$x^2$_%_{n}": Fabricated(), "ümläut_≤": Fabricated(accuracy=0.5)},
}  # fmt: skip


SIZES = {"t5_tiny": 1.7e6, "t5_mini": 6.5e6, "decoder_tiny": 0.7e6, "decoder_422m": 422e6}


def over(name: str, values: Sequence[Any], **more: Any) -> dict[str, Fabricated]:
    """Returns runs that differ in a setting."""
    return {
        f"{name.lower()}_{value}": Fabricated(
            settings={**more.get("settings", {}), name: value},
            accuracy=0.3 + 0.1 * number,
            **{key: value for key, value in more.items() if key != "settings"},
        )
        for number, value in enumerate(values)
    }


SWEEPS = {
    "clusters": over("TRAIN_CLUSTERS", (1, 2, 4, 7), datasets=THREE),
    "size": {
        f"{size}-{cluster}": Fabricated(
            {cluster: THREE[cluster]}, size=size, parameters=int(parameters), accuracy=accuracy
        )
        for accuracy, (size, parameters) in zip((0.5, 0.6, 0.4, 0.8), SIZES.items())
        for cluster in ("nli", "commonsense")
    },
    "instructions": {
        mode: Fabricated(
            mode=mode, templates=1, evaluations=[Fabricated(mode="template", accuracy=0.5)]
        )
        for mode in ("none", "dataset_name")
    }
    | {"template": Fabricated()},
    "shots": {
        f"shots_{shots}": Fabricated(THREE, shots=shots, accuracy=accuracy)
        for shots, accuracy in ((0, 0.5), (4, 0.55), (16, 0.7))
    },
    "prompt_tuning": {
        f"{start}_{peft}": Fabricated(
            {"nli": ["rte", "cb"], "misc": ["wic"]},
            settings={"PEFT": peft, "INITIAL_CHECKPOINT_PATH": f"/runs/{start}"},
            accuracy=accuracy,
        )
        for accuracy, (start, peft) in zip(
            (0.5, 0.6, 0.7), (("base", "prompt"), ("flan", "prompt"), ("flan", None))
        )
    },
    "templates": {
        f"{name}-datasets_{datasets}": dataclasses.replace(
            run, settings={**run.settings, "DATASETS_PER_CLUSTER": datasets}
        )
        for datasets in (1, 4)
        for name, run in over("TEMPLATES", (1, 4, None), datasets=THREE).items()
    },
}


HARD_SWEEPS = {
    "twelve_clusters_and_long_names": (
        "size",
        {
            f"{size}-{x}": Fabricated(
                {name: [f"{name}_a", f"{name}_b"] for name in CLUSTERS},
                rows=6,
                templates=2,
                size=size,
                parameters=int(SIZES[size]),
                settings={"INITIAL_MODEL_WITH_A_RATHER_LONG_NAME": f"{LONG}_{x}"},
            )
            for size in SIZES
            for x in range(3)
        },
    ),
    "other_rows_and_seeds": (
        "clusters",
        {
            f"{x}_{seed}": Fabricated(
                {"nli": ["rte", "cb"]},
                first_row=9 * (x == 2),
                settings={"TRAIN_CLUSTERS": x, "SEED": seed},
            )
            for x in (1, 2, 7)
            for seed in (0, 1)
        },
    ),
    "at_the_ends": (
        "templates",
        {
            f"{x}": Fabricated(accuracy=y, untuned=-1, settings={"TEMPLATES": x})
            for x, y in ((1, -1), (10, 2))
        },
    ),
    "missing_clusters": (
        "instructions",
        {
            "a": Fabricated(THREE, mode="none"),
            "b": Fabricated({"nli": ["rte"]}, mode="template"),
            "c": Fabricated({"misc": ["wic"]}, mode="template", settings={"HELD_OUT": "misc"}),
        },
    ),
}


@pytest.mark.parametrize("case", HARD_SWEEPS)
def test_nothing_overlaps_in_panels_either(tmp_path, case):
    name, runs = HARD_SWEEPS[case]
    figure, points = drawing(data_of(tmp_path, **runs), name)
    check_layout(figure)
    odd = [point for point in points if not point.is_equal]
    assert bool(odd) == (case in ("other_rows_and_seeds", "missing_clusters"))
    assert any(p.std_seeds is not None for p in points) == (case == "other_rows_and_seeds")


@pytest.mark.parametrize("name", SWEEPS)
def test_a_figure_over_a_setting_is_drawn_where_that_differs(tmp_path, name):
    data = data_of(tmp_path, **SWEEPS[name])
    drawn = [figure.name for figure in make_figures(data)]
    assert drawn == ["zero_shot", "difference", "template_spread", name]
    figure, points = drawing(data, name)
    check_layout(figure)
    # Each number is that of the table.
    table = {round(s.mean, 9) for line in data.lines for s in (line.tuned, line.untuned) if s}
    shown = {round(p.value, 9) for p in points if p.kind == "tuned" and "Mean" not in p.cluster}
    assert shown and shown <= table
    assert all(point.is_equal for point in points)


def test_an_untuned_model_that_was_evaluated_in_another_mode_is_in_no_row_of_it(tmp_path):
    tuned_only = Fabricated(mode="template", untuned=None)
    runs = {
        "none": Fabricated(mode="none", evaluations=[tuned_only]),
        "template": Fabricated(untuned=0.5),
    }
    data = data_of(tmp_path, **runs)
    points = FIGURES["instructions"].points(data)
    rows = {kind: {p.x for p in points if p.kind == kind} for kind in ("tuned", "untuned")}
    assert rows["tuned"] - rows["untuned"] == {"no template → instructions"}
    # Where it is all that there is, it is drawn, and named.
    baseline = Fabricated(mode="baseline", accuracy=None, untuned=0.3)
    data = data_of(tmp_path / "alone", one=Fabricated(untuned=None, evaluations=[baseline]))
    caption = FIGURES["zero_shot"].caption(FIGURES["zero_shot"].points(data), data)
    assert "Untuned in part with instructions: baseline." in caption


def test_modes_with_the_chat_template_are_at_the_same_places_in_another_curve(tmp_path):
    modes = [mode + more for more in ("", ", chat template") for mode in ("none", "template")]
    trained = {mode: {"settings": {"INSTRUCTIONS": mode.split(",")[0]}} for mode in modes}
    runs = {f"r{i}": Fabricated(mode=mode, **trained[mode]) for i, mode in enumerate(modes)}
    points = FIGURES["instructions"].points(data_of(tmp_path, **runs))
    assert {(p.x, p.series) for p in points if p.kind == "tuned"} == {
        (f"{word} → {word}", curve)
        for word in ("no template", "instructions")
        for curve in ("", "chat template")
    }


def test_the_caption_counts_the_training_datasets_of_all_runs_of_a_curve(tmp_path):
    runs = {
        f"{cluster}-{count}": Fabricated(
            {cluster: THREE[cluster]},
            train=("sst2", "xsum", "wic")[: count + extra],
            settings={"HELD_OUT": cluster, "TRAIN_CLUSTERS": count},
        )
        for extra, cluster in enumerate(("nli", "commonsense"))
        for count in (1, 2)
    }
    data = data_of(tmp_path, **runs)
    figure = FIGURES["clusters"]
    caption = figure.caption(figure.points(data), data)
    assert "Datasets that train, by number of clusters: 1: 1 to 2, 2: 2 to 3." in caption


def test_runs_that_hold_out_other_clusters_are_one_series(tmp_path):
    runs = {
        f"{size}-{cluster}": Fabricated(
            {cluster: datasets}, size=size, settings={"HELD_OUT": cluster}, accuracy=accuracy
        )
        for size, accuracy in (("t5_tiny", 0.4), ("t5_mini", 0.5))
        for cluster, datasets in THREE.items()
    }
    data = data_of(tmp_path, **runs)
    assert len({line.label for line in data.lines}) == 6
    tuned = [point for point in FIGURES["zero_shot"].points(data) if point.kind == "tuned"]
    assert {point.series for point in tuned} == {"t5_tiny", "t5_mini"} and len(tuned) == 18
    # A run for each dataset: the mean of a cluster is over the runs.
    runs = {
        f"{size}-{dataset}": Fabricated(
            {"nli": [dataset]},
            size=size,
            parameters=len(size),
            settings={"MIXTURE_OR_TASK_NAME": dataset},
        )
        for size in ("t5_tiny", "t5_large")
        for dataset in ("rte", "cb")
    }
    data = data_of(tmp_path / "datasets", **runs)
    points = [p for p in FIGURES["size"].points(data) if p.kind == "tuned"]
    by_size = {p.size: p.value for p in points}
    for size, value in by_size.items():
        each = [line.tuned.mean for line in data.lines if line.tuned.series.size == size]
        assert len(each) == 2 and value == pytest.approx(sum(each) / 2, abs=1e-9)


@pytest.mark.parametrize("case", HARD)
def test_nothing_overlaps_or_is_outside_of_the_picture(tmp_path, case):
    data = data_of(tmp_path, **HARD[case])
    names = [figure.name for figure in make_figures(data)]
    assert ("difference" in names) == (case != "no_untuned") and "zero_shot" in names
    for name in names:
        figure, points = drawing(data, name)
        check_layout(figure)
        labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        series = {point.series for point in points if point.kind == "tuned"}
        if len(series) > 1:
            assert series <= {label.replace("\n", "") for label in labels}


def test_a_difference_is_filled_where_its_interval_excludes_zero(tmp_path):
    data = data_of(tmp_path, one=Fabricated({"nli": ["rte"]}, rows=80, accuracy=0.9, untuned=0.2))
    figure, (point,) = drawing(data, "difference")
    assert point.low > 0
    assert markers(figure, "o") == [(point.value, "#0072b2")]
    near = Fabricated({"nli": ["rte"]}, rows=80, accuracy=0.51, untuned=0.5)
    data = data_of(tmp_path / "near", one=near)
    figure, (point,) = drawing(data, "difference")
    assert point.low < 0 < point.high and markers(figure, "o") == [(point.value, "white")]


def test_models_before_which_no_row_differs_are_named(tmp_path):
    data = data_of(tmp_path, one=Fabricated({"nli": ["rte"]}, untuned=0.6))
    figure, (point,) = drawing(data, "difference")
    assert (point.value, point.low, point.note) == (0, None, "no row differs")
    assert "No row differs anywhere." in FIGURES["difference"].caption([point], data)


def test_a_mean_over_other_rows_is_hatched_and_named(tmp_path):
    runs = {"one": Fabricated(), "two": Fabricated(first_row=7), "three": Fabricated()}
    data = data_of(tmp_path, **runs)
    figure, points = drawing(data, "zero_shot")
    odd = {point.series for point in points if not point.is_equal}
    assert odd == {"two"} and all(not point.dataset for point in points if not point.is_equal)
    assert sum(bool(each.get_hatch()) for each in figure.axes[0].collections) == len(odd)
    caption = FIGURES["zero_shot"].caption(points, data)
    assert "Hatched, over other datasets, splits or rows than the rest: Natural language" in caption
    data = data_of(tmp_path / "alike", one=Fabricated(), three=Fabricated())
    assert all(point.is_equal for point in FIGURES["zero_shot"].points(data))


def test_recalled_numbers_of_the_paper_are_hollow_and_said_to_be(tmp_path):
    data = data_of(tmp_path, one=Fabricated({"nli": ["anli_r1", "rte"]}))
    figure, points = drawing(data, "zero_shot")
    paper = {(p.dataset, p.series): p for p in points if p.kind == "paper"}
    assert paper["anli_r1", "FLAN 137B"].value == 47.7 and not paper["anli_r1", "FLAN 137B"].note
    assert paper["rte", "FLAN 137B"].note == "recalled, unverified"
    assert dict(markers(figure, "*"))[78.3] == "white" != dict(markers(figure, "*"))[47.7]
    assert "Hollow marks of the paper: recalled, unverified." in FIGURES["zero_shot"].caption(
        points, data
    )
    # A number of another metric is not that number.
    f1 = data_of(tmp_path / "f1", one=Fabricated({"nli": ["rte"]}, metric="f1"))
    assert not [p for p in FIGURES["zero_shot"].points(f1) if p.kind == "paper"]


def markers(figure, shape: str) -> list[tuple[float, str]]:
    """Returns x and face color of the points of a shape."""
    return [
        (float(line.get_xdata()[0]), line.get_markerfacecolor())
        for line in figure.axes[0].lines
        if line.get_marker() == shape
    ]


@pytest.mark.parametrize(
    "damage", [{"settings": []}, {"parameters": "many"}, {"parameters": 0}, {"train": [1]}]
)
def test_a_damaged_run_json_is_a_clear_error(tmp_path, damage):
    write_run(tmp_path / "run", Fabricated({"nli": ["rte"]}))
    path = tmp_path / "run/run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(UserError, match="run.json is not readable"):
        verb.main([str(tmp_path / "run")])


def test_figures_that_are_none_any_more_go_and_a_file_in_their_place_is_a_clear_error(tmp_path):
    write_run(tmp_path / "run", Fabricated({"nli": ["rte"]}))
    verb.main([str(tmp_path / "run")])
    write_run(tmp_path / "run", Fabricated({"nli": ["rte"]}, untuned=None))
    verb.main([str(tmp_path / "run")])
    names = {path.stem for path in (tmp_path / "run/figures").iterdir()}
    assert names == {"zero_shot", "template_spread"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other/figures").write_text("notes")
    with pytest.raises(UserError, match="cannot write .*figures"):
        verb.main([str(tmp_path / "run"), f"--output={tmp_path / 'other'}"])


def test_odd_settings_draw_no_figure_over_them(tmp_path):
    odd = {"TEMPLATES": [1], "TRAIN_CLUSTERS": "all", "PEFT": ["lora"], "INSTRUCTIONS": None}
    data = data_of(tmp_path, one=Fabricated(settings=odd), two=Fabricated(settings={"X": 1}))
    names = [figure.name for figure in make_figures(data)]
    assert names == ["zero_shot", "difference", "template_spread", "prompt_tuning"]


def test_many_models_differ_in_color_or_shape():
    assert len({style.look(number) for number in range(56)}) == 56


def test_matplotlib_is_imported_only_to_draw(tmp_path):
    write_run(tmp_path / "run", Fabricated({"nli": ["rte"]}))
    verb.main([str(tmp_path / "run")])
    code = (
        "import sys; from flan_jax.report.__main__ import main; main([sys.argv[1]]); "
        "print([m for m in ('matplotlib', 'jax', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True
    )
    assert done.stdout.endswith("are up to date\n[]\n"), done.stdout + done.stderr
