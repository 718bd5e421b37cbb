"""What an export to Hugging Face says about text.

`transformers` answers with it as `flan-jax generate` does.

The last needs torch and transformers, which flan_jax does not: without them it is skipped, and says
  so.
"""

import contextlib
import io
import json
import re
import shutil

import pytest
import sentencepiece

from flan_jax.checkpoints import model_gin
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.cli import dispatch
from flan_jax.config import gin_files
from flan_jax.config.gin_files import CONFIGURED
from flan_jax.data.config import DataConfig
from flan_jax.data.run_data import open_data
from flan_jax.data.special_tokens import read_special_tokens
from flan_jax.data.vocabulary import load_vocabulary
from flan_jax.errors import UserError
from flan_jax.report import model_card
from flan_jax.runs.setup import build_run, check_parameters
from flan_jax.training.config import TrainConfig
from support import chat_templates, tokenizer_files
from support.converting import convert
from support.random_checkpoints import LLAMA, T5, random_model

NOT_CHECKED = "NOT CHECKED AGAINST HUGGING FACE: torch and transformers are not installed here"
NO_JINJA = "NOT CHECKED: jinja2, which reads chat templates ([hf]), is not installed here"
PROMPTS = ["Is it true that it was wet?", "Rain fell on the day. Options:\n- yes\n- no", "wet"]
MOST_TOKENS = 12


def run_of(directory, model, *settings):
    """A run's directory as training leaves it, around the parameters of a model."""
    convert("hf", "flan", model, directory)
    gin_files.parse_command_line(
        [
            "--gin_file=gin/flan.gin",
            f"--gin_file={directory}/model.gin",
            f"--gin.TASK_FEATURE_LENGTHS={{'inputs': 64, 'targets': {MOST_TOKENS}}}",
            f"--gin.MODEL_DIR='{directory}'",
            *settings,
        ],
        CONFIGURED,
    )
    (directory / "config.gin").write_text(gin_files.config_text())
    (directory / "model.gin").unlink()
    card = [
        {"dataset": "rte", "cluster": "nli", "rows": 9, "rate": 9, "share": 1.0, "templates": 1}
    ]
    (directory / "mixture.json").write_text(
        json.dumps({"held_out": "none", "eval": [], "dropped": [], "card": card})
    )
    return directory


def sentencepiece_model(directory):
    directory.mkdir(exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tokenizer_files.TEXT),
        model_prefix=str(directory / "spiece"),
        vocab_size=60,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return directory


def t5_with_sentencepiece(tmp_path):
    model = random_model(sentencepiece_model(tmp_path / "hf"), {**T5, "vocab_size": 256})
    return run_of(tmp_path / "run", model)


def t5_over_bytes(tmp_path):
    model = random_model(tmp_path / "hf", {**T5, "vocab_size": 384, "decoder_start_token_id": 7})
    return run_of(tmp_path / "run", model, "--gin.VOCABULARY='bytes'")


def t5_with_bpe(tmp_path):
    """BPE that puts <s> before a text and </s> behind it, ids other than T5's, as CodeT5 has it."""
    import tokenizers

    model = tokenizer_files.byte_bpe()
    model.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    tokenizer_files.save(
        model, tmp_path / "hf", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
    ids = {"decoder_start_token_id": 5, "eos_token_id": 2, "pad_token_id": 0}
    return run_of(tmp_path / "run", random_model(tmp_path / "hf", {**T5, "vocab_size": 320, **ids}))


def decoder_with_bpe(tmp_path):
    """A language model's tokenizer alone: BOS and EOS are guessed."""
    tokenizer_files.save(tokenizer_files.byte_bpe(tokenizer_files.CHAT_SPECIALS), tmp_path / "hf")
    return run_of(tmp_path / "run", random_model(tmp_path / "hf", {**LLAMA, "vocab_size": 320}))


def decoder_with_blank(tmp_path):
    """A tokenizer that puts a blank before every text, and several ids that end an answer.

    What it has for a chat template renders no message.
    """
    pytest.importorskip("jinja2", reason=NO_JINJA)
    tokenizer_files.save(
        tokenizer_files.llama2_like(),
        tmp_path / "hf",
        bos_token="<s>",
        eos_token="</s>",
        chat_template="of the chat model",
    )
    (tmp_path / "hf/generation_config.json").write_text(
        json.dumps({"eos_token_id": [2, 9, 31], "do_sample": True})
    )
    return run_of(tmp_path / "run", random_model(tmp_path / "hf", {**LLAMA, "vocab_size": 80}))


def decoder_with_chat_template(tmp_path, *settings):
    """An instruct model: its prompts go through its chat template."""
    pytest.importorskip("jinja2", reason=NO_JINJA)
    chat_templates.save("smollm 2", tmp_path / "hf")
    model = random_model(tmp_path / "hf", {**LLAMA, "vocab_size": 384})
    return run_of(tmp_path / "run", model, *settings)


def decoder_over_bytes(tmp_path):
    return run_of(
        tmp_path / "run",
        random_model(tmp_path / "hf", {**LLAMA, "vocab_size": 384}),
        "--gin.VOCABULARY='bytes'",
    )


KINDS = {
    t5_with_sentencepiece: {"eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0},
    t5_over_bytes: {"eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 7},
    t5_with_bpe: {"eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 5},
    decoder_with_bpe: {"bos_token_id": 0, "eos_token_id": 2},
    decoder_with_blank: {"bos_token_id": 1, "eos_token_id": [2, 9, 31]},
    decoder_over_bytes: {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
}


def read(path):
    return json.loads(path.read_text())


def usage(export):
    """The program of the model card's Usage, with the place of the export in it."""
    card = (export / "README.md").read_text()
    return re.search(r"## Usage\n\n```python\n(.+?)```", card, re.S)[1].replace(
        f'"{export.name}"', f'"{export}"'
    )


@pytest.mark.parametrize("make", KINDS)
def test_an_export_says_the_ids_and_the_prompt_of_the_training(tmp_path, make):
    run, ids = make(tmp_path), KINDS[make]
    convert("flan", "hf", run, tmp_path / "out")
    assert read(tmp_path / "out/generation_config.json") == {**ids, "max_new_tokens": MOST_TOKENS}
    config, tokenizer = (
        read(tmp_path / "out/config.json"),
        read(tmp_path / "out/tokenizer_config.json"),
    )
    assert {
        name: value
        for name, value in config.items()
        if name.endswith("_token_id") and value is not None
    } == ids

    # The template spells what the vocabulary puts around a text; transformers renders it in the
    # last test.
    pieces = re.search(
        r"\{\{- (.+) \+ messages\[0\]\['content'\] \+ (.+) -\}\}", tokenizer["chat_template"]
    )
    begin, end = map(json.loads, pieces.groups())
    around = {
        t5_with_sentencepiece: ("", "</s>"),
        t5_over_bytes: ("", "</s>"),
        t5_with_bpe: ("<s>", "</s>"),
        decoder_with_bpe: ("<|endoftext|>", "\n"),
        decoder_with_blank: ("<s>", "\n"),
        decoder_over_bytes: ("<pad>", "</s>"),
    }
    assert (begin, end) == around[make]

    special = read_special_tokens(
        {"tokenizer_config.json": (tmp_path / "out/tokenizer_config.json").read_bytes()}
    )
    assert special.names["eos"] == ("<|im_end|>" if make is decoder_with_bpe else "</s>")
    usage(tmp_path / "out")


@pytest.mark.parametrize("setting", ["'auto'", "None", "'mine.jinja'"])
def test_an_export_has_the_chat_template_that_the_run_was_trained_with(tmp_path, setting):
    (tmp_path / "mine.jinja").write_text(chat_templates.template("qwen 2.5"))
    setting = setting.replace("mine", f"{tmp_path}/mine")
    run = decoder_with_chat_template(tmp_path, f"--gin.CHAT_TEMPLATE={setting}")
    convert("flan", "hf", run, tmp_path / "out")
    config = read(tmp_path / "out/tokenizer_config.json")
    if setting == "None":  # the prompt form of the training
        assert "messages[0]['content'] + " in config["chat_template"]
    else:
        name = "smollm 2" if setting == "'auto'" else "qwen 2.5"
        assert config["chat_template"] == chat_templates.template(name)
    assert not (tmp_path / "out/chat_template.jinja").exists()
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    ids = read(tmp_path / "out/generation_config.json")
    assert (ids["bos_token_id"], ids["eos_token_id"]) == (1, 2)


def test_what_was_only_converted_keeps_its_ids_and_its_template(tmp_path, capsys):
    decoder_with_blank(tmp_path)
    convert("hf", "hf", tmp_path / "hf", tmp_path / "out")
    assert read(tmp_path / "out/tokenizer_config.json")["chat_template"] == "of the chat model"
    assert read(tmp_path / "out/config.json")["eos_token_id"] == [2, 9, 31]
    card = (tmp_path / "out/README.md").read_text()
    assert "tags: [flan_jax]\n" in card and "No record of a run" in card
    random_model(tmp_path / "bare", {**LLAMA, "vocab_size": 64})
    capsys.readouterr()
    convert("hf", "hf", tmp_path / "bare", tmp_path / "bare_out")
    assert (
        "note: no tokenizer is known, so the export has none; --tokenizer=PATH gives one"
        in capsys.readouterr().out
    )
    assert (
        "No tokenizer with a chat template was known"
        in (tmp_path / "bare_out/README.md").read_text()
    )
    tokenizer_files.save(tokenizer_files.byte_bpe(), tmp_path / "lists", eos_token="</s>")
    (tmp_path / "lists/generation_config.json").write_text(
        json.dumps({"pad_token_id": [0, 1], "eos_token_id": [2, 1]})
    )
    convert("hf", "hf", tmp_path / "bare", tmp_path / "lists_out", f"--tokenizer={tmp_path}/lists")
    ids = read(tmp_path / "lists_out/config.json")
    # an answer may end in several ways
    assert (ids["pad_token_id"], ids["eos_token_id"]) == (0, [2, 1])
    convert("hf", "hf", tmp_path / "bare", tmp_path / "bytes_out", "--tokenizer=bytes")
    assert read(tmp_path / "bytes_out/tokenizer_config.json")["tokenizer_class"] == "ByT5Tokenizer"


def test_a_tokenizer_of_another_name_goes_along_with_its_special_tokens(tmp_path):
    tokenizer_files.save(
        tokenizer_files.byte_bpe(tokenizer_files.CHAT_SPECIALS),
        tmp_path / "mine",
        eos_token="<|endoftext|>",
        bos_token="<|im_start|>",
    )
    (tmp_path / "mine/tokenizer.json").rename(tmp_path / "mine/bpe.json")
    run = run_of(
        tmp_path / "run",
        random_model(tmp_path / "hf", {**LLAMA, "vocab_size": 320}),
        f"--gin.VOCABULARY='{tmp_path}/mine/bpe.json'",
    )
    convert("flan", "hf", run, tmp_path / "out")
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (
        tmp_path / "mine/bpe.json"
    ).read_bytes()
    config = read(tmp_path / "out/config.json")
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 0)


def test_ids_go_with_a_model_through_every_form(tmp_path):
    ids = {"decoder_start_token_id": 7, "eos_token_id": [2, 9], "pad_token_id": 3}
    random_model(tmp_path / "hf", {**T5, "vocab_size": 128, **ids})
    for form, there, back in (("flan", "ours", "a"), ("t5x", "t5x", "b"), ("hf", "hf2", "c")):
        convert("hf", form, tmp_path / "hf", tmp_path / there)
        convert(form, "hf", tmp_path / there, tmp_path / back)
        assert read(tmp_path / back / "config.json").items() >= ids.items(), form
        assert read(tmp_path / back / "generation_config.json").items() >= ids.items(), form
        assert open_checkpoint(tmp_path / there).config.decoder_start_id == 7
    gin_files.parse_command_line(
        ["--gin_file=gin/flan.gin", f"--gin_file={tmp_path}/ours/model.gin"], CONFIGURED
    )
    assert open_data(DataConfig()).layout.bos_id == 7  # what training has the decoder read first
    (tmp_path / "config.gin").write_text(gin_files.config_text())
    assert model_gin.read_fields(tmp_path / "config.gin")["t5"]["decoder_start_id"] == 7


def test_a_checkpoint_that_says_another_model_is_refused_where_no_shape_shows_it(tmp_path):
    """T5 begins with 7 here.

    A decoder's rotary positions and heads leave no trace in its shapes.
    """
    for name, model in (
        ("t5", {**T5, "decoder_start_token_id": 7}),
        ("llama", {**LLAMA, "rope_theta": 500.0}),
    ):
        random_model(tmp_path / name, {**model, "vocab_size": 384})
        convert("hf", "flan", tmp_path / name, tmp_path / f"{name}_ours")
    other_heads = [
        f"DecoderConfig.{setting}=4" for setting in ("num_heads", "num_kv_heads", "head_dim")
    ]
    for name, settings, says in (
        (
            "t5",
            ["DECODER_START_ID=0"],
            "decoder_start_id is 7 in the checkpoint, 0 in the config; .* set "
            "--gin.DECODER_START_ID",
        ),
        (
            "llama",
            [*other_heads, "DecoderConfig.rope_theta=1e4"],
            "num_heads is 2 in the checkpoint, 4 in .* rope_theta is 500.0 in the checkpoint",
        ),
        ("llama", [], None),
    ):
        gin_files.parse_command_line(
            [
                "--gin_file=gin/flan.gin",
                f"--gin_file={tmp_path}/{name}_ours/model.gin",
                "--gin.VOCABULARY='bytes'",
                *(f"--gin.{s}" for s in settings),
            ],
            CONFIGURED,
        )
        run = build_run(TrainConfig(), open_data(DataConfig()))
        for checkpoint in (tmp_path / name, tmp_path / f"{name}_ours"):
            with pytest.raises(UserError, match=says) if says else contextlib.nullcontext():
                check_parameters(run, str(checkpoint))


def test_batches_and_decoding_begin_with_the_same_id():
    gin_files.parse_command_line(
        ["--gin_file=gin/flan.gin", "--gin.T5Config.decoder_start_id=7"], CONFIGURED
    )
    with pytest.raises(
        UserError, match="is 7 and Data.decoder_start_id 0; set both with --gin.DECODER_START_ID"
    ):
        build_run(TrainConfig(), open_data(DataConfig()))


def test_more_rows_than_the_vocabulary_needs_are_named_with_the_way_out(tmp_path):
    random_model(tmp_path / "hf", {**T5, "vocab_size": 1024})
    convert("hf", "flan", tmp_path / "hf", tmp_path / "ours")
    sizes = [
        "--gin_file=gin/flan.gin",
        f"--gin_file={tmp_path}/ours/model.gin",
        "--gin.VOCABULARY='bytes'",
    ]
    gin_files.parse_command_line([*sizes, "--gin.Train.embedding_rows=None"], CONFIGURED)
    with pytest.raises(
        UserError, match="rows than VOCABULARY needs: add --gin.Train.embedding_rows=1024, or give"
    ):
        check_parameters(build_run(TrainConfig(), open_data(DataConfig())), str(tmp_path / "ours"))
    gin_files.parse_command_line([*sizes, "--gin.Train.embedding_rows=2048"], CONFIGURED)
    with pytest.raises(UserError, match="its embedding has fewer rows: give the VOCABULARY"):
        check_parameters(build_run(TrainConfig(), open_data(DataConfig())), str(tmp_path / "ours"))


def test_base_model_and_license_are_those_that_files_name(tmp_path):
    model = random_model(tmp_path / "hf", {**LLAMA, "vocab_size": 384})
    (model / "README.md").write_text(
        "---\nlicense: apache-2.0\nbase_model:\n- owner/small\ntags: [x]\n---\n# Small\n"
    )
    convert("hf", "flan", model, tmp_path / "ours")
    run_of(
        tmp_path / "run",
        tmp_path / "hf",
        "--gin.VOCABULARY='bytes'",
        f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path}/ours'",
    )
    for form, path in (("hf", "hf"), ("flan", "ours"), ("flan", "run")):
        convert(form, "hf", tmp_path / path, tmp_path / f"{path}_out")
        card = (tmp_path / f"{path}_out" / "README.md").read_text()
        assert "\nbase_model: owner/small\n" in card and "\nlicense: apache-2.0\n" in card
        assert ("flan, instruction-tuning" in card) is (path == "run")
    (model / "README.md").write_text("---\nlicense: [of their, own\n---\n")
    convert("hf", "hf", model, tmp_path / "unknown")
    header = (tmp_path / "unknown/README.md").read_text().split("---")[1]
    assert "base_model" not in header


def test_t5_reads_the_same_ids_from_tokenizer_json_as_from_its_sentencepiece_model(
    tmp_path, t5_vocabulary
):
    transformers = pytest.importorskip("transformers", reason=NOT_CHECKED)
    shutil.copy(t5_vocabulary, tmp_path / "spiece.model")
    transformers.T5Tokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "fast")
    one, other = (
        load_vocabulary(str(path), "t5") for path in (tmp_path / "spiece.model", tmp_path / "fast")
    )
    assert (one.size, one.eos_ids, one.pad_id) == (other.size, other.eos_ids, other.pad_id)
    for text in [
        "Is it true? {yes} or\nno",
        "  a  b \t c\n\nd ",
        "café “quoted” … ﬁne № ½ ™ ＡＢＣ",
        "日本語 🙂 ok",
        "a </s> b <pad> <unk> <extra_id_0> x",
        "1,234.56 (a-b) `c` ~d~ ^e^ <f>",
        "x\u00a0y\u200bz",
        "",
        " ",
    ]:
        assert one.encode_input(text) == other.encode_input(text), text
        assert one.encode_target(text) == other.encode_target(text), text


@pytest.mark.parametrize("make", [*KINDS, decoder_with_chat_template])
def test_three_lines_of_transformers_answer_as_generate_does(tmp_path, make):
    pytest.importorskip("torch", reason=NOT_CHECKED)
    transformers = pytest.importorskip("transformers", reason=NOT_CHECKED)
    transformers.utils.logging.disable_progress_bar()
    run = make(tmp_path)
    convert("flan", "hf", run, tmp_path / "out")
    (tmp_path / "prompts").write_text("\n".join(prompt.replace("\n", " ") for prompt in PROMPTS))
    dispatch.main(
        [
            "generate",
            f"--gin_file={run}/config.gin",
            f"--file={tmp_path}/prompts",
            f"--output={tmp_path}/answers",
        ]
    )
    answers = [
        json.loads(line)["answer"] for line in (tmp_path / "answers").read_text().splitlines()
    ]
    scope = {}
    for prompt, answer in zip((tmp_path / "prompts").read_text().splitlines(), answers):
        program = usage(tmp_path / "out").replace(
            '"Is it true that penguins can fly?"', json.dumps(prompt)
        )
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(program, scope)
        assert printed.getvalue().rstrip("\n") == answer.rstrip("\n")
        name = next(
            (
                file.name
                for file in run.iterdir()
                if file.name in ("tokenizer.json", "spiece.model")
            ),
            None,
        )
        vocabulary = load_vocabulary(
            str(run / name) if name else "bytes",
            "t5" if "t5" in make.__name__ else "decoder",
            "auto",
        )
        read_ids = scope["inputs"]["input_ids"][0].tolist()
        assert read_ids[-len(vocabulary.encode_input(prompt)) :] == vocabulary.encode_input(prompt)
    assert len(set(answers)) > 1, "answers that are all alike test less"


def test_a_card_names_the_model_and_no_place_on_the_machine_that_tuned_it():
    paths = {"INITIAL_CHECKPOINT_PATH": "/home/me/model.gguf", "VOCABULARY": "/home/me/t.json"}
    lines = model_card._settings({"MODEL": "hf:org/name", "SEED": 3, **paths})
    assert lines == ["- MODEL: `hf:org/name`", "- SEED: `3`"]
    assert len(model_card._settings({"MODEL": None, **paths})) == 2
