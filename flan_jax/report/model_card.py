"""The model card (README.md) of an export, from the run's record: settings, mixture, results."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping
from typing import Any

from flan_jax import __version__
from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.checkpoints.located import located
from flan_jax.checkpoints.model_gin import read_macros
from flan_jax.checkpoints.provenance import read_provenance
from flan_jax.checkpoints.reader import CheckpointReader
from flan_jax.evaluation import unit_scores
from flan_jax.evaluation.known_runs import known_runs
from flan_jax.evaluation.result_rows import read_results
from flan_jax.evaluation.results_store import RESULTS
from flan_jax.models.architectures import model_fields
from flan_jax.report.comparisons import compare
from flan_jax.report.table import table
from flan_jax.storage.files import read_json

# Of a run that tuned arrays beside a frozen model.
_PEFT_SETTINGS = {
    "lora": ("PEFT", "LORA_RANK", "LORA_ALPHA", "LORA_SCALE", "LORA_TARGETS", "ALSO_TRAIN"),
    "ia3": ("PEFT", "ALSO_TRAIN"),
    "prompt": ("PEFT", "PROMPT_LENGTH", "PROMPT_INIT", "ALSO_TRAIN"),
}
# What MODEL sets: paths on the machine that trained, of which MODEL is the name.
_OF_MODEL = ("INITIAL_CHECKPOINT_PATH", "VOCABULARY")
_SETTINGS = (
    "MODEL",
    "INITIAL_CHECKPOINT_PATH",
    "TRAIN_STEPS",
    "BATCH_SIZE",
    "TASK_FEATURE_LENGTHS",
    "OPTIMIZER",
    "SCHEDULE",
    "LEARNING_RATE",
    "DROPOUT_RATE",
    "VOCABULARY",
    "SEED",
)


# Where a run does not say how long its answers may be.
_MOST_TOKENS = 256
_USAGE = """## Usage

```python
{imports}

tokenizer = AutoTokenizer.from_pretrained("{path}")
model = {loader}.from_pretrained("{path}")
messages = [{{"role": "user", "content": "Is it true that penguins can fly?"}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
print(tokenizer.decode(model.generate({arguments})[0, {begin}:], skip_special_tokens=True))
```

The directory of this file stands for `{path}`. """
_TEMPLATE = """The chat template renders a prompt as the model read its inputs in training; in
float32 the answer is that of `flan-jax generate`. Put all that the model has to read, an
instruction and its text, into one message of the user's."""
_OWN_TEMPLATE = """The model was converted and not tuned: if it has a chat template of its own, that
is kept; otherwise the template renders one prompt as `flan-jax generate` reads it."""
_NO_RECORD = """## Training

No record of a run lay beside the checkpoint, so nothing is said here of what it was trained on."""
_NO_TOKENIZER = """## Usage

No tokenizer with a chat template was known when this was exported: `flan-jax convert ...
--tokenizer=PATH` puts one beside the weights."""


def model_card(
    checkpoint: CheckpointReader,
    name: str,
    run: pathlib.Path | None,
    has_template: bool = False,
    library: str = "transformers",
    is_prompt: bool = False,
) -> str:
    """Returns the text of README.md.

    Args:
      checkpoint: what is exported.
      name: of the export's directory.
      run: the directory with the run's record, where there is one.
      has_template: whether a tokenizer and its chat template go along.
      library: that loads it: 'peft' for adapters.
      is_prompt: whether it is a prompt, which only peft's own classes load.
    """
    record, macros = read_record(run), _macros(run)
    usage = _usage(checkpoint, name, bool(record), is_prompt)
    sections = [
        usage if has_template else _NO_TOKENIZER,
        _model(checkpoint),
    ]
    if record:
        sections.append(_training(record, macros))
    if run and (run / RESULTS).is_file():
        trained_on = {name for known in known_runs(run).values() for name in known["trained_on"]}
        trained_on |= {row["dataset"] for row in record.get("card", [])}
        sections.append(_results(run / RESULTS, checkpoint.step, trained_on))
    sections.append(_licenses(record) if record else _NO_RECORD)
    header = _header(checkpoint, name, record, macros, library)
    return "\n".join(header) + "\n\n".join(sections) + "\n"


def _header(
    checkpoint: CheckpointReader,
    name: str,
    record: dict[str, Any],
    macros: dict[str, Any],
    library: str,
) -> list[str]:
    tags = "flan, instruction-tuning, flan_jax" if record else "flan_jax"
    return [
        "---",
        f"library_name: {library}",
        f"tags: [{tags}]",
        *(f"{field}: {text}" for field, text in _origin(checkpoint, record, macros).items()),
        "---",
        "",
        f"# {name}",
        "",
        f"Exported by flan_jax {__version__} from step {checkpoint.step:,} of a checkpoint.",
        "",
        "",
    ]


def read_record(run: pathlib.Path | None) -> dict[str, Any]:
    """Returns a run's `mixture.json`; empty for a model that was only converted."""
    path = run / "mixture.json" if run else None
    return read_json(path) if path and path.is_file() else {}


def answer_length(run: pathlib.Path | None) -> int:
    """Returns the most tokens of an answer that a run was trained for."""
    lengths = _macros(run).get("TASK_FEATURE_LENGTHS")
    length = lengths.get("targets") if isinstance(lengths, dict) else None
    return length if type(length) is int and length > 0 else _MOST_TOKENS


def _macros(run: pathlib.Path | None) -> dict[str, Any]:
    path = run / "config.gin" if run else None
    return read_macros(path) if path and path.is_file() else {}


def _origin(
    checkpoint: CheckpointReader, record: dict[str, Any], macros: dict[str, Any]
) -> dict[str, str]:
    """Base model and license: of the model itself, or of the one that a run began with."""
    start = macros.get("INITIAL_CHECKPOINT_PATH") if record else str(checkpoint.path)
    return read_provenance(located(start)) if start else {}


def _usage(checkpoint: CheckpointReader, name: str, is_tuned: bool, is_prompt: bool) -> str:
    is_t5 = checkpoint.architecture == "t5"
    kind = "Seq2SeqLM" if is_t5 else "CausalLM"
    loader, imports = f"AutoModelFor{kind}", f"from transformers import AutoModelFor{kind}, "
    if is_prompt:
        loader = f"AutoPeftModelFor{kind}"
        imports = f"from peft import {loader}\nfrom transformers import "
    # Its generation with a cache has other answers than its own forward passes (peft 0.21).
    is_uncached = is_prompt and not is_t5
    text = _USAGE.format(
        imports=f"{imports}AutoTokenizer",
        loader=loader,
        path=name,
        arguments="**inputs, use_cache=False" if is_uncached else "**inputs",
        begin="1" if is_t5 else 'inputs["input_ids"].shape[1]',
    )
    return text + (_TEMPLATE if is_tuned else _OWN_TEMPLATE)


def _model(checkpoint: CheckpointReader) -> str:
    kind = "Encoder-decoder (T5)" if checkpoint.architecture == "t5" else "Decoder-only"
    count = sum(math.prod(shape) for shape in checkpoint.shapes.values())
    config = checkpoint.config
    values = {name: getattr(config, name) for name in model_fields(checkpoint.architecture)}
    fields = ", ".join(
        f"{name} {dict(value) if isinstance(value, Mapping) else value}"
        for name, value in values.items()
        if value is not None
    )
    return (
        f"## Model\n\n{kind}, {count:,} parameters, {config.vocab_size:,} rows of embedding.\n\n"
        f"{fields}."
    )


def _training(record: dict[str, Any], macros: dict[str, Any]) -> str:
    unseen = ", ".join(record.get("eval", [])) or "no dataset"
    lines = [
        "## What it was tuned on",
        "",
        "Instruction tuning as in [Finetuned Language Models Are Zero-Shot Learners]"
        "(https://arxiv.org/abs/2109.01652).",
        "",
        f"Held out: {record.get('held_out') or 'nothing'} ({unseen}).  ",
        f"Dropped with it: {', '.join(record.get('dropped', [])) or 'nothing'}.",
        "",
        *_settings(macros),
        "",
        "| dataset | cluster | rows | share |",
        "| --- | --- | --: | --: |",
    ]
    lines += [
        f"| {row['dataset']} | {row['cluster']} | {row['rows']:,} | {row['share']:.2%} |"
        for row in record["card"]
    ]
    return "\n".join(lines)


def _settings(macros: dict[str, Any]) -> list[str]:
    """Returns a line for each setting that says how the model was tuned."""
    left_out = _OF_MODEL if macros.get("MODEL") else ()
    return [
        f"- {setting}: `{macros[setting]}`"
        for setting in (*_SETTINGS, *_PEFT_SETTINGS.get(macros.get("PEFT"), ()))
        if macros.get(setting) is not None and setting not in left_out
    ]


def _results(path: pathlib.Path, step: int, trained_on: set[str]) -> str:
    """The table of one step of the run, beside baselines and models of other names of any step."""
    rows = [row for row in read_results(path) if row.model != "tuned" or row.step == step]
    if not any(row.model == "tuned" for row in rows):
        return f"## Results\n\nStep {step:,} was not evaluated."
    measures = {key: measure for key, measure, _ in unit_scores.read_all(path.parent)}
    text = table(compare(rows, measures), trained_on)
    return text.replace("\n## ", "\n### ").replace("# Results", "## Results", 1).strip()


def _licenses(record: dict[str, Any]) -> str:
    import flan_jax.tasks  # noqa: F401  (fills the catalogue)

    by_license: dict[str, list[str]] = {}
    for row in record["card"]:
        known = row["dataset"] in CATALOGUE
        license = CATALOGUE[row["dataset"]].license if known else "unknown"
        by_license.setdefault(license, []).append(row["dataset"])
    lines = [f"- {license}: {', '.join(names)}" for license, names in sorted(by_license.items())]
    note = "As the datasets' authors state them; a model tuned on them may have to respect them."
    return "\n".join(["## Licenses of the data", "", note, "", *lines])
