"""The shortest example of docs/add_a_dataset.md, run as it stands there."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

from support.processes import ended_well

PAGE = pathlib.Path(__file__).parents[1] / "docs/add_a_dataset.md"


def test_a_dataset_in_twenty_lines_trains_as_the_page_says(tmp_path):
    section = PAGE.read_text(encoding="utf-8").split("## In twenty lines")[1].split("\n## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    assert len(code.strip().splitlines()) < 20
    (tmp_path / "weather.py").write_text(code)
    row = json.loads(re.search(r"e\.g\. `(\{.*?\})`", section).group(1))
    for split in ("train", "test"):
        path = tmp_path / "rows/weather" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({**row, "label": i % 2}) + "\n" for i in range(12)))
    command = (
        re.search(r"```\nflan-jax (train .*?)```", section, re.DOTALL).group(1).replace("\\\n", " ")
    )
    small = [
        "--gin.TRAIN_STEPS=2",
        "--gin.BATCH_SIZE=2",
        "--gin.CACHE_DIR=cache",
        "--gin.T5Config.emb_dim=32",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 128, 'targets': 32}",
    ]
    scripts = pathlib.Path(sys.executable).parent
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PATH": f"{scripts}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["flan-jax", *shlex.split(command), *small],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    ended_well(result)
    assert "weather" in result.stdout and (tmp_path / "runs/weather/checkpoints/2").is_dir()
