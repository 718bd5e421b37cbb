"""Rows of files of one's own: a record of each form, and how a file of them is written."""

import json
import pathlib

# Form -> (a record, what the model reads or None, what is trained).
RECORDS = {
    "inputs/targets": ({"inputs": "i", "targets": "t"}, "i", "t"),
    "prompt/completion": ({"prompt": "p", "completion": "c", "id": 7}, "p", "c"),
    "prompt/response": ({"prompt": "p", "response": "r"}, "p", "r"),
    "instruction/output": (
        {"instruction": "do", "input": "it", "output": "o", "text": "all"},
        "do\n\nit",
        "o",
    ),
    "instruction/response": (
        {"instruction": "do", "context": "here", "response": "r", "category": "x"},
        "do\n\nhere",
        "r",
    ),
    "question/answer": ({"question": "q", "answer": 4}, "q", "4"),
    "question/rationale/answer": (
        {"question": "q", "rationale": "so", "answer": "a"},
        "q\n\nExplain step by step, then give the answer.",
        "so\nThe answer is a",
    ),
    "text": ({"text": " t "}, None, "t"),
}


def write(path: pathlib.Path, rows: list[dict]) -> pathlib.Path:
    """Writes rows as JSON lines; returns the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
