"""CHAT_TEMPLATE: what trains, what is evaluated and what is asked goes through the template."""

import numpy as np
import pytest

from flan_jax.config import gin_files
from flan_jax.config.gin_files import CONFIGURED
from flan_jax.data.config import DataConfig
from flan_jax.errors import UserError
from flan_jax.prepare import prepare
from flan_jax.runs.evaluating import instruction_mode
from support import chat_templates

pytest.importorskip("tokenizers", reason="the extra [hf] is not installed")
pytest.importorskip("jinja2", reason="CHAT TEMPLATES ARE NOT CHECKED: jinja2 ([hf]) is missing")


def data_of(tmp_path, *settings):
    """Returns the prepared data of a run of a decoder-only model."""
    directory = chat_templates.save("llama 3", tmp_path / "tokenizer")
    arguments = [
        "--gin_file=gin/flan.gin",
        "--gin.ARCHITECTURE=decoder",
        f"--gin.VOCABULARY={directory}/tokenizer.json",
        f"--gin.CACHE_DIR={tmp_path}/cache",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 400, 'targets': 100}",
        "--gin.TRAIN_STEPS=2",
        "--gin.HELD_OUT=none",
        "--gin.MIXTURE_OR_TASK_NAME=rte",
        "--gin.EVAL_DATASETS=copa",
        "--gin.EVAL_ROWS=3",
        "--gin.EVAL_TEMPLATES=1",
        *settings,
    ]
    gin_files.parse_command_line(arguments, CONFIGURED)
    return prepare(DataConfig(), workers=1)


def texts_of(data, batch):
    """Returns (text, trained text) of each example in a batch, special tokens included."""
    vocabulary, result = data.vocabulary, []
    decode = vocabulary.plain._rendered_model.decode
    for row in range(len(batch["decoder_segment_ids"])):
        segments = batch["decoder_segment_ids"][row]
        for number in range(1, segments.max() + 1):
            here = segments == number
            first = batch["decoder_input_tokens"][row][here][:1]
            ids = batch["decoder_target_tokens"][row][here]
            trained = ids[batch["decoder_loss_weights"][row][here] == 1]
            whole = np.concatenate([first, ids])
            result.append([decode(part, skip_special_tokens=False) for part in (whole, trained)])
    return result


def test_training_and_held_out_rows_are_written_by_the_template(tmp_path):
    data = data_of(tmp_path)
    assert data.is_chat
    template, eos = data.vocabulary.template, "<|eot_id|>"
    texts = texts_of(data, data.train.batches().at(0))
    assert len(texts) >= 8
    for whole, trained in texts:
        asked = whole.partition("<|start_header_id|>user<|end_header_id|>\n\n")[2].partition(eos)[0]
        messages = [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": trained.removesuffix(eos)},
        ]
        assert whole == template.render(messages) and trained.endswith(eos)

    (dataset, held_out), *_ = data.eval.jobs()
    examples = data.eval.examples(dataset, held_out)
    for ids, options, text in zip(examples.inputs, examples.options, examples.texts):
        messages = [{"role": "user", "content": text["inputs"]}]
        rendered = template.render(messages, add_generation_prompt=True)
        assert [data.vocabulary.bos_id, *ids] == data.vocabulary.encode_rendered(rendered)
        for option, said in zip(options, text["options"]):
            assert data.vocabulary.plain.decode(option[:-1]) == said
            assert option[-1] == data.vocabulary.eos_id


def test_the_template_is_part_of_every_key_and_none_does_without(tmp_path):
    with_template, without = data_of(tmp_path), data_of(tmp_path, "--gin.CHAT_TEMPLATE=None")
    assert not without.is_chat
    keys = [data.train.shard_key("rte", 0) for data in (with_template, without)]
    assert keys[0] != keys[1]
    for data in (with_template, without):
        assert all(data.train.counts("rte").values())
    (tmp_path / "mine.jinja").write_text(chat_templates.template("llama 3") + "\n")
    third = data_of(tmp_path, f"--gin.CHAT_TEMPLATE={tmp_path}/mine.jinja")
    assert third.train.shard_key("rte", 0) not in keys


def test_a_row_that_is_too_long_keeps_its_question_and_the_template_around_it(tmp_path):
    data = data_of(tmp_path, "--gin.TASK_FEATURE_LENGTHS={'inputs': 130, 'targets': 100}")
    assert data.train.counts("rte")["inputs truncated"] > 0
    for whole, _ in texts_of(data, data.train.batches().at(0)):
        assert whole.startswith("<|begin_of_text|><|start_header_id|>system")
        assert "<|start_header_id|>assistant<|end_header_id|>\n\n" in whole


@pytest.mark.parametrize(
    "settings, expected",
    [
        ([], "template, chat template"),
        (["--gin.CHAT_TEMPLATE=None"], "template"),
        (["--gin.OPTIONS_STYLE=lettered"], "template, options lettered, chat template"),
    ],
)
def test_results_say_that_a_template_was_used(tmp_path, settings, expected):
    data = data_of(tmp_path, *settings)
    assert instruction_mode(data, data.eval.eval_protocol) == expected


def test_a_template_needs_a_tokenizer(tmp_path):
    with pytest.raises(UserError, match="CHAT_TEMPLATE needs a tokenizer.json"):
        data_of(tmp_path, "--gin.VOCABULARY=bytes", f"--gin.CHAT_TEMPLATE={tmp_path}/x.jinja")
