"""What several tests share: a small source of rows on disk, and the real rows where they are."""

import json
import os
import pathlib

import gin
import pytest

# A program that a test starts and that crashes says in which line.
os.environ.setdefault("PYTHONFAULTHANDLER", "1")

SHARED = pathlib.Path(__file__).parents[1].parent / "shared"


@pytest.fixture(autouse=True)
def no_setting_is_left_to_the_next_test():
    """What a test configures with gin ends with it."""
    yield
    gin.clear_config()


def pytest_runtest_setup(item):
    """Skips what needs eight devices where there are fewer."""
    if item.get_closest_marker("devices"):
        import jax

        if jax.device_count() < 8:
            pytest.skip("needs eight devices: run by tests/test_eight_devices.py")


@pytest.fixture
def real_rows() -> pathlib.Path:
    """The directory of real rows; skips where this checkout has none beside it."""
    path = SHARED / "data/real"
    if not path.is_dir():
        pytest.skip(f"no real rows at {path}")
    return path


@pytest.fixture
def t5_vocabulary() -> str:
    """T5's SentencePiece model; skips where this checkout has none beside it."""
    path = SHARED / "data/vocab/t5_cc_all_32000/sentencepiece.model"
    if not path.is_file():
        pytest.skip(f"no vocabulary at {path}")
    return str(path)


@pytest.fixture
def write_rows(tmp_path):
    """Writes `<tmp_path>/rows/<dataset>/<split>.jsonl`; gives the directory of rows."""

    def write(dataset: str, split: str, rows: list[dict]) -> pathlib.Path:
        path = tmp_path / "rows" / dataset / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
        return tmp_path / "rows"

    return write


@pytest.fixture(scope="module", params=["t5", "decoder"])
def model_and_params(request):
    """A tiny random model of each family, and its parameters in memory."""
    from support.random_models import make_model

    return make_model(request.param)
