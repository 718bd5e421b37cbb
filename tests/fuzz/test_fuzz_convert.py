"""`flan-jax convert` of directories in which one file is damaged.

Status 0 or a message, and never half an output.
"""

import dataclasses
import json
import shutil

import pytest
from checkpoint_files import LLAMA, T5, huggingface_directory, with_file
from harness import shares
from hypothesis import strategies as st
from mutations import as_json, damaged_bytes, damaged_values

from flan_jax.cli import dispatch
from flan_jax.evaluation.result_rows import ResultRow

FILES = {
    "tokenizer_config.json": {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "chat_template": "{{ messages }}",
        "added_tokens_decoder": {"0": {"content": "<s>"}, "1": {"content": "</s>"}},
    },
    "special_tokens_map.json": {"bos_token": "<s>", "eos_token": {"content": "</s>"}},
    "generation_config.json": {
        "bos_token_id": 0,
        "eos_token_id": [1, 2],
        "decoder_start_token_id": 0,
    },
    "mixture.json": {
        "held_out": "nli",
        "eval": ["rte"],
        "dropped": ["stsb"],
        "trained_on": ["piqa"],
        "card": [
            {
                "dataset": "piqa",
                "cluster": "commonsense",
                "rows": 12,
                "rate": 12,
                "share": 1.0,
                "templates": 10,
            }
        ],
    },
}
GIN = (
    "TRAIN_STEPS = 250\nVOCABULARY = 'bytes'\nDROPOUT_RATE = 0.1\nLEARNING_RATE = 1e-3\n"
    "T5Config.dropout_rate = %DROPOUT_RATE\n"
)
ROW = {
    "run": "run",
    "step": 0,
    "model": "tuned",
    "size": "tiny",
    "cluster": "nli",
    "dataset": "rte",
    "split": "validation",
    "kind": "forward",
    "shots": 0,
    "instruction_mode": "template",
    "scoring": "sum",
    "metric": "accuracy",
    "value": 61.5,
    "stderr": 1.0,
    "n": 277,
    "template": "plain",
}


@pytest.mark.parametrize("config, form", [(LLAMA, "hf"), (T5, "flan")], ids=["llama", "t5 run"])
@shares(4, 150)
def test_convert(fuzz, tmp_path, examples, config, form):
    source = huggingface_directory(tmp_path / "hf", config)
    for name, contents in FILES.items():
        (source / name).write_text(json.dumps(contents))
    if form == "flan":
        assert dispatch.main(["convert", str(source), "--to=flan", f"--output={tmp_path}/run"]) == 0
        source = tmp_path / "run"
        for name, contents in FILES.items():
            (source / name).write_text(json.dumps(contents))
        (source / "config.gin").write_text((source / "model.gin").read_text() + GIN)
        (source / "model.gin").unlink()
        columns = [field.name for field in dataclasses.fields(ResultRow)]
        cells = [str(ROW.get(column, "")) for column in columns]
        (source / "results.csv").write_text(f"{','.join(columns)}\n{','.join(cells)}\n")

    def check(case):
        name, damaged = case
        text = (
            damaged.value if isinstance(damaged.value, bytes) else as_json(damaged.value).encode()
        )
        copy = with_file(source, tmp_path / "copy", name, text)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        status = dispatch.main(["convert", str(copy), "--to=hf", f"--output={tmp_path}/out"])
        whole = (tmp_path / "out/config.json").is_file() and not list(tmp_path.glob(".out*"))
        if status:
            assert not (tmp_path / "out").exists()
            raise SystemExit(status)
        return whole

    names = [*FILES, *(["config.gin", "results.csv"] if form == "flan" else ["config.json"])]
    inputs = st.sampled_from(names).flatmap(
        lambda name: st.tuples(
            st.just(name),
            damaged_bytes((source / name).read_bytes())
            if not name.endswith(".json")
            else st.one_of(
                damaged_values(json.loads((source / name).read_text())),
                damaged_bytes((source / name).read_bytes()),
            ),
        )
    )
    fuzz(
        f"convert of a {'run' if form == 'flan' else 'Hugging Face directory'}",
        inputs,
        check,
        examples,
    )
