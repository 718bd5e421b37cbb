"""What is installed with the package beside its modules: gin files, rows, and the report's page."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def test_a_wheel_has_the_gin_files_the_rows_and_the_page(tmp_path):
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("NOT CHECKED: setuptools is not installed")
    command = ["setup.py", "-q", "egg_info", f"--egg-base={tmp_path}"]
    command += ["build_py", f"--build-lib={tmp_path}/lib"]
    built = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    for source, target, patterns in (
        ("gin", "flan_jax/gin", ["**/*.gin"]),
        ("tasks", "flan_jax/tasks", ["*.py", "rows/*/*.jsonl"]),
        ("flan_jax", "flan_jax", ["**/*.py", "report/page/*.html", "report/page/*.css"]),
    ):
        for pattern in patterns:
            files = {path.relative_to(ROOT / source) for path in (ROOT / source).glob(pattern)}
            missing = sorted(str(f) for f in files if not (tmp_path / "lib" / target / f).is_file())
            assert files and not missing
    # Names beside flan_jax would be those of everybody's packages.
    assert [path.name for path in (tmp_path / "lib").iterdir()] == ["flan_jax"]
