"""The adapter for lm-evaluation-harness.

Its numbers are `flan-jax eval`'s, and those of one plain forward pass.

Needs lm_eval, which is an extra: without it the tests are skipped, and say so.
"""

import csv
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.errors import UserError
from support import chat_templates
from support.converting import convert
from support.processes import ended_well
from support.random_checkpoints import LLAMA, random_model
from support.runs import SMALL_DECODER, command, run

pytest.importorskip(
    "lm_eval", reason="NOT CHECKED AGAINST LM-EVALUATION-HARNESS: lm_eval is not installed here"
)

LENGTHS = "--gin.TASK_FEATURE_LENGTHS={'inputs': 448, 'targets': 160}"
DECODER = [
    "--gin.ARCHITECTURE=decoder",
    "--gin.SIZE=decoder_test",
    *SMALL_DECODER,
    "--gin.DecoderConfig.dtype=float32",
]


@pytest.fixture(scope="module", params=["t5", "decoder"])
def finished(request, tmp_path_factory):
    """A run whose evaluation has left `results.csv` and predictions."""
    base = tmp_path_factory.mktemp(request.param)
    model = DECODER if request.param == "decoder" else []
    result = run(
        command(
            "train",
            base / "cache",
            base / "run",
            LENGTHS,
            *model,
            "--gin.TRAIN_STEPS=3",
            "--gin.EVAL_ROWS=6",
            "--gin.HELD_OUT=commonsense",
            "--gin.MIXTURE_OR_TASK_NAME=rte",
        )
    )
    ended_well(result)
    return base / "run"


@pytest.fixture(scope="module")
def harness(finished):
    """The model as the harness opens it, and the same under the protocol 'flan'."""
    from flan_jax.lm_eval.model import FlanLM

    return {
        protocol: FlanLM(run=str(finished), protocol=protocol) for protocol in ("harness", "flan")
    }


def test_continuations_that_differ_only_as_texts_are_counted():
    from flan_jax.lm_eval.model import same_tokens

    arguments = [
        ("It printed", " {"),
        ("It printed", " }"),
        ("It printed", " x"),
        ("It is", " {"),
        ("It is", " {"),
    ]
    assert same_tokens(arguments, [([5], [2]), ([5], [2]), ([5], [9]), ([6], [2]), ([6], [2])]) == 2


def instances(kind, *arguments):
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=of, idx=0) for of in arguments]


def logits_after(lm, context, continuation):
    """Logits float32 [T, V] of one plain forward pass.

    That of training, nothing packed, shared or padded.
    """
    forward = jax.jit(lm._model.apply)
    row = lambda ids: jnp.asarray([ids], jnp.int32)  # noqa: E731
    if not lm._is_decoder:
        batch = {
            "encoder_input_tokens": row(context),
            "encoder_segment_ids": row([1] * len(context)),
            "decoder_input_tokens": row([0, *continuation[:-1]]),
            "decoder_segment_ids": row([1] * len(continuation)),
        }
        return forward({"params": lm._params}, batch)[0]
    ids = [*context, *continuation[:-1]]
    batch = {
        "decoder_input_tokens": row(ids),
        "decoder_segment_ids": row([1] * len(ids)),
        "decoder_positions": row(range(len(ids))),
        "decoder_causal_attention": row([1] * len(context) + [0] * (len(ids) - len(context))),
    }
    return forward({"params": lm._params}, batch)[0, len(context) - 1 :]


def expected(lm, context, continuation):
    logits = logits_after(lm, context, continuation)
    chosen = jax.nn.log_softmax(logits)[jnp.arange(len(continuation)), jnp.asarray(continuation)]
    return float(chosen.sum()), bool((logits.argmax(axis=-1) == jnp.asarray(continuation)).all())


def predicted(model_dir, dataset="copa"):
    """Template -> the lines of predictions that `flan-jax train` has left."""
    paths = sorted((model_dir / "predictions/tuned").glob(f"{dataset}.test.*.jsonl"))
    return {
        path.name.split(".")[2]: [json.loads(line) for line in path.read_text().splitlines()]
        for path in paths
    }


def write_tasks(directory, predictions):
    """A multiple-choice task of the harness for each template, from the rows of the predictions."""
    directory.mkdir()
    for template, lines in predictions.items():
        rows = [
            {
                "prompt": line["prompt"],
                "options": line["options"],
                "label": line["options"].index(line["answer"]),
            }
            for line in lines
        ]
        data = directory / f"{template}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        metrics = "".join(f"  - metric: {name}\n" for name in ("acc", "acc_norm", "acc_bytes"))
        (directory / f"{template}.yaml").write_text(
            f"task: copa_{template}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: "
            f"{data}}}}}\n"
            "test_split: test\noutput_type: multiple_choice\ntarget_delimiter: ''\n"
            "doc_to_text: '{{prompt}}'\ndoc_to_choice: '{{options}}'\ndoc_to_target: label\n"
            f"metric_list:\n{metrics}"
        )


def test_accuracies_of_the_harness_are_those_of_flan_jax_eval(finished, tmp_path, monkeypatch):
    predictions = predicted(finished)
    write_tasks(tmp_path / "tasks", predictions)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run(
        [
            sys.executable,
            "-m",
            "flan_jax.lm_eval",
            "run",
            "--model",
            "flan_jax",
            "--model_args",
            f"run={finished},protocol=flan",
            "--tasks",
            ",".join(f"copa_{template}" for template in predictions),
            "--include_path",
            str(tmp_path / "tasks"),
            "--output_path",
            str(tmp_path / "out"),
            "--log_samples",
        ]
    )
    ended_well(result)
    found = json.loads(next((tmp_path / "out").rglob("results_*.json")).read_text())["results"]
    with open(finished / "results.csv", newline="") as file:
        ours = {
            (r["template"], r["scoring"]): float(r["value"])
            for r in csv.DictReader(file)
            if (r["model"], r["dataset"], r["metric"]) == ("tuned", "copa", "accuracy")
        }
    assert len(predictions) >= 9 and len(ours) >= 3 * len(predictions)
    for template, lines in predictions.items():
        for metric, scoring in (
            ("acc", "sum"),
            ("acc_norm", "per_char"),
            ("acc_bytes", "per_byte"),
        ):
            assert 100 * found[f"copa_{template}"][f"{metric},none"] == pytest.approx(
                ours[template, scoring]
            ), template
        samples = [
            json.loads(line)
            for line in next((tmp_path / "out").rglob(f"samples_copa_{template}_*.jsonl"))
            .read_text()
            .splitlines()
        ]
        scores = {
            sample["doc_id"]: [float(reply[0]) for reply in sample["filtered_resps"]]
            for sample in samples
        }
        assert [scores[row] for row in range(len(lines))] == [
            pytest.approx(line["scores"], abs=1e-4) for line in lines
        ]
    assert len({value for value in ours.values()}) > 1, (
        "all accuracies are the same: nothing is compared"
    )


def test_log_probabilities_are_those_of_one_forward_pass(harness):
    lm = harness["harness"]
    context, end = "Is water wet? Answer:", [] if lm._is_decoder else [1]
    begin = [0] if lm._is_decoder else []
    requests = [
        (context, " yes"),
        (context, " no, never"),
        ("", "Well"),
        (context + " ", "yes"),
        (context, ""),
    ]
    found = lm.loglikelihood(instances("loglikelihood", *requests))
    encode = lm._vocabulary.encode
    for (text, option), (score, greedy) in zip(requests[:4], found):
        option = text[len(text.rstrip()) :] + option
        wanted, wanted_greedy = expected(lm, [*begin, *encode(text.rstrip()), *end], encode(option))
        assert score == pytest.approx(wanted, abs=1e-4) and greedy is wanted_greedy
    assert found[3] == pytest.approx(found[0]) and found[4] == (0.0, True)
    closed, _ = harness["flan"].loglikelihood(instances("loglikelihood", (context, " yes")))[0]
    assert closed == pytest.approx(
        expected(lm, [*begin, *encode(context), 1], [*encode("yes"), 1])[0], abs=1e-4
    )


def test_a_token_over_the_border_is_scored_with_the_continuation_and_counted(
    harness, monkeypatch, caplog
):
    lm = harness["harness"]
    if not lm._is_decoder:
        pytest.skip("a T5's continuation has tokens of its own")
    encode = lm._vocabulary.encode
    merging = lambda text: [200 if token == -1 else token for token in _merged(encode(text))]  # noqa: E731
    monkeypatch.setattr(lm._vocabulary, "encode", merging)
    assert len(merging("xAB")) == 2
    with caplog.at_level("WARNING"):
        (score, _), (apart, _) = lm.loglikelihood(
            instances("loglikelihood", ("xA", "B"), ("xA", "C"))
        )
    assert "1 of 2 continuations merge" in caplog.text
    assert (
        score == pytest.approx(expected(lm, [0, *merging("x")], [200])[0], abs=1e-4) and score < 0
    )
    assert apart == pytest.approx(expected(lm, [0, *merging("xA")], merging("C"))[0], abs=1e-4)


def _merged(ids):
    """Bytes as tokens, but for A B, which are one: -1."""
    a, b = ord("A") + 3, ord("B") + 3
    merged = []
    for token in ids:
        if token == b and merged and merged[-1] == a:
            merged[-1] = -1
        else:
            merged.append(token)
    return merged


def test_what_is_generated_is_greedy_and_ends_before_a_stop(harness):
    lm, ask = harness["harness"], {"until": [], "max_gen_toks": 6}
    contexts = [
        "Tell me something.",
        "And now something longer than that, about the weather at sea.",
    ]
    whole = [
        lm._generator(6).tokens(lm._params, [np.asarray(lm._context(text))])[0] for text in contexts
    ]
    assert lm.generate_until(instances("generate_until", *((text, ask) for text in contexts))) == [
        lm._vocabulary.decode(ids.tolist()) for ids in whole
    ]
    for text, ids in zip(contexts, whole):
        ids = ids[: np.argmax(ids == 1) + 1] if 1 in ids else ids
        assert lm._pair_scores([(lm._context(text), ids)])[0][1]
        other = np.where(np.arange(len(ids)) == len(ids) - 1, ids + 1, ids)
        assert not lm._pair_scores([(lm._context(text), other)])[0][1]


def test_stop_strings_cut_and_sampling_is_refused(harness):
    from flan_jax.lm_eval import model as lm_eval

    assert lm_eval._before("a b\nc. d", ["c", "\n", ""]) == "a b"
    assert lm_eval._before("a b", None) == "a b" and lm_eval._before("a b", " b") == "a"
    lm = harness["harness"]
    with pytest.raises(UserError, match="do_sample=False"):
        lm.generate_until(
            instances("generate_until", ("Hi", {"do_sample": True, "temperature": 0.7}))
        )
    if lm._is_decoder:
        with pytest.raises(UserError, match="max_gen_toks"):
            lm.generate_until(instances("generate_until", ("Hi", {"max_gen_toks": 10_000})))


def test_a_rolling_text_in_windows_scores_each_token_once(harness, monkeypatch):
    lm, text = harness["harness"], "All happy families are alike."
    ids = [*lm._vocabulary.encode(text), *([] if lm._is_decoder else [1])]
    first = 0 if lm._is_decoder else 1
    requests = instances("loglikelihood_rolling", (text,), ("",), ("Why?",))
    found = lm.loglikelihood_rolling(requests)
    assert found[0] == pytest.approx(expected(lm, [first], ids)[0], abs=1e-4)
    assert found[1] == pytest.approx(0.0 if lm._is_decoder else expected(lm, [1], [1])[0], abs=1e-4)
    assert lm.loglikelihood_rolling(requests[1:2]) == [pytest.approx(found[1], abs=1e-4)]
    monkeypatch.setattr(lm, "max_length", 16)
    windows = [([first], ids[:16]), (ids[len(ids) - 17 : 16], ids[16:])]
    assert len(ids) < 32
    assert lm.loglikelihood_rolling(requests)[0] == pytest.approx(
        sum(expected(lm, *window)[0] for window in windows), abs=1e-4
    )


def test_a_long_context_loses_its_beginning_and_says_so(harness, monkeypatch, caplog):
    lm = harness["harness"]
    monkeypatch.setattr(lm, "max_length", 12)
    found = lm.loglikelihood(instances("loglikelihood", ("one two three four five", " six")))[0][0]
    ids = lm._vocabulary.encode("one two three four five")
    context = [0, *ids[-7:]] if lm._is_decoder else [*ids[-11:], 1]
    assert found == pytest.approx(expected(lm, context, lm._vocabulary.encode(" six"))[0], abs=1e-4)
    assert "1 contexts are longer than max_length=12" in caplog.text


def test_a_checkpoint_with_gin_files_and_settings_is_the_run(finished, harness, tmp_path):
    from flan_jax.lm_eval.model import FlanLM

    (tmp_path / "more.gin").write_text("TASK_FEATURE_LENGTHS = {'inputs': 99, 'targets': 31}\n")
    lm = FlanLM(
        checkpoint=str(finished / "checkpoints"),
        step=3,
        gin_file=f"{finished}/config.gin+{tmp_path}/more.gin",
        batch_size=1,
        device="cuda:0",
        **{"gin.EVAL_ROWS": 3},
    )
    assert lm.max_length == (130 if lm._is_decoder else 99)
    request = instances("loglikelihood", ("Is fire wet?", " no"))
    ((score, is_greedy),), ((expected, greedy),) = (
        of.loglikelihood(request) for of in (lm, harness["harness"])
    )
    assert score == pytest.approx(expected, abs=1e-5) and is_greedy == greedy


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({}, "run=RUN"),
        ({"run": "x", "protokol": "flan"}, "no model argument protokol"),
        ({"run": "x", "protocol": "sum"}, "harness, flan"),
        ({"run": "nowhere"}, "nowhere/config.gin"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message):
    from flan_jax.lm_eval.model import FlanLM

    with pytest.raises(UserError, match=message):
        FlanLM(**arguments)


def test_torch_is_not_imported():
    code = "import sys, flan_jax.lm_eval.model; assert 'torch' not in sys.modules"
    result = run([sys.executable, "-c", code])
    ended_well(result)


@pytest.fixture
def instruct(tmp_path):
    """Arguments of an instruct model with random parameters: its tokenizer has a chat template."""
    pytest.importorskip("jinja2", reason="NOT CHECKED IN CHAT TEMPLATES: jinja2 is not installed")
    chat_templates.save("llama 3", tmp_path / "hf")
    random_model(tmp_path / "hf", {**LLAMA, "vocab_size": 384})
    convert("hf", "flan", tmp_path / "hf", tmp_path / "ours")
    return {
        "checkpoint": str(tmp_path / "ours"),
        "gin_file": f"gin/flan.gin+{tmp_path}/ours/model.gin",
        "gin.TASK_FEATURE_LENGTHS": "{'inputs': 200, 'targets': 8}",
        "gin.DecoderConfig.dtype": "float32",
    }


def test_contexts_are_rendered_by_the_chat_template(instruct):
    from flan_jax.lm_eval.model import FlanLM

    lm = FlanLM(**instruct)
    vocabulary = lm._vocabulary
    assert lm.chat_template(False) == ""
    plain = lm._pair("Is it wet?", " Yes")
    assert plain == (
        [vocabulary.plain.bos_id, *vocabulary.encode("Is it wet?")],
        vocabulary.encode(" Yes"),
    )
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it wet?"},
    ]
    context = lm.apply_chat_template(history)
    assert context == vocabulary.template.render(history, add_generation_prompt=True)
    assert lm.chat_template(True) == chat_templates.template("llama 3") and lm.tokenizer_name
    before, after = lm._pair(context, "Yes")
    assert [*before, *after] == vocabulary.encode_rendered(context + "Yes")
    assert before[0] == vocabulary.bos_id and before.count(vocabulary.bos_id) == 1
    (score,) = lm.loglikelihood(instances("loglikelihood", (context, "Yes")))
    assert score[0] == pytest.approx(expected(lm, before, after)[0], abs=1e-4)
    begun = [*history, {"role": "assistant", "content": "It is "}]
    assert lm.apply_chat_template(begun, False).endswith("assistant<|end_header_id|>\n\nIt is")


def test_the_protocol_flan_applies_the_template_itself(instruct):
    from flan_jax.lm_eval.model import FlanLM

    lm = FlanLM(**instruct, protocol="flan")
    vocabulary = lm._vocabulary
    context, continuation = lm._pair("Is it wet?", " Yes")
    whole = vocabulary.template.render(
        [{"role": "user", "content": "Is it wet?"}, {"role": "assistant", "content": "Yes"}]
    )
    assert [*context, *continuation] == vocabulary.encode_rendered(whole)
    with pytest.raises(UserError, match="protocol=flan applies the chat template itself"):
        lm.chat_template(True)
    without = FlanLM(**instruct, **{"gin.CHAT_TEMPLATE": "None"})
    with pytest.raises(UserError, match="needs a model with a chat template"):
        without.apply_chat_template([{"role": "user", "content": "x"}])
