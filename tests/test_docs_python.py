"""docs/python.md and the notebooks of examples/, run as they stand, with tiny models."""

import doctest
import importlib.util
import json
import pathlib

import pytest

from support.adapters import random_llama
from support.tokenizer_files import byte_bpe, save

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def with_smollm2(tmp_path, monkeypatch):
    """A working directory with a tiny model under the name of the converted SmolLM2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # the token cache
    (tmp_path / "converted").mkdir()
    random_llama(tmp_path / "converted/smollm2_135m", vocab_size=320)
    save(byte_bpe(), tmp_path / "converted/smollm2_135m")


def test_the_examples_of_the_page(with_smollm2):
    pytest.importorskip("pandas", reason="NOT CHECKED: docs/python.md shows a table of pandas")
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    path = ROOT / "docs/python.md"
    failures, tests = doctest.testfile(str(path), module_relative=False, optionflags=flags)
    assert tests > 20 and not failures


@pytest.fixture(scope="module")
def run_cells():
    """The function of docs/make_notebooks.py that runs the cells of a notebook."""
    path = ROOT / "docs/make_notebooks.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run_cells


@pytest.mark.slow
@pytest.mark.parametrize("name", ["held_out", "own_data"])
def test_a_notebook_runs_as_it_stands(name, run_cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    written = json.loads((ROOT / f"examples/{name}.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in written["cells"] if cell["cell_type"] == "code"]
    shown = [output for cell in cells for output in cell["outputs"]]
    assert shown and len(json.dumps(shown)) < 10_000, "run docs/make_notebooks.py"
    notebook = json.loads(json.dumps(written))
    run_cells(notebook)
    # the same cells show something, whatever the last digits are
    again = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    kinds = [[output["output_type"] for output in cell["outputs"]] for cell in again]
    assert kinds == [[output["output_type"] for output in cell["outputs"]] for cell in cells]
    if name == "own_data":  # the model has learned the file
        assert "'Mars'" in json.dumps(again[-1]["outputs"])
