"""Packages, dependencies and the console script of flan_jax."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "flan_jax/__init__.py").read_text()).group(1)
# Of Hugging Face and llama.cpp: parquet, tokenizer.json and its chat template, GGUF weights.
HUGGING_FACE = [
    "datasets>=4.0,<6",
    "tokenizers>=0.20,<0.24",
    "gguf>=0.17,<0.20",
    "jinja2>=3.1.6,<4",  # chat templates; its sandbox had holes before 3.1.6
]
# Checkpoints on gs://; 52 MB with what it needs.
GCS = ["gcsfs>=2025.9,<2027"]

setuptools.setup(
    name="flan_jax",
    version=VERSION,
    description="Instruction tuning of language models (FLAN) in JAX for TPU and GPU",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    # `tasks/` and `gin/` install below `flan_jax`: a wheel must not claim those top-level names.
    packages=[
        *setuptools.find_packages(include=["flan_jax", "flan_jax.*"]),
        "flan_jax.tasks",
        "flan_jax.gin",
    ],
    package_dir={"flan_jax": "flan_jax", "flan_jax.tasks": "tasks", "flan_jax.gin": "gin"},
    package_data={
        "flan_jax.tasks": ["rows/*/*.jsonl"],
        "flan_jax.gin": ["*.gin", "*/*.gin"],
        "flan_jax.report.page": ["*.html", "*.css", "*.js"],
    },
    install_requires=[
        "jax>=0.10,<0.13",
        "flax>=0.12,<0.14",
        "optax>=0.2.6,<0.3",
        "jaxtyping>=0.3,<0.4",
        "orbax-checkpoint>=0.11.30,<0.13",
        "seqio==0.0.20",
        "tensorflow-datasets>=4.9.9,<4.10",
        "importlib_resources>=6,<8",  # tensorflow-datasets 4.9.10 imports it without declaring it
        "gin-config==0.5.0",
        "sentencepiece>=0.2,<0.3",
        "sacrebleu>=2.4,<3",
        "rouge-score==0.1.2",
        "matplotlib>=3.8,<4",
        "tqdm>=4.66,<5",
        "etils>=1.9,<2",
        "numpy>=2.0,<3",
        "ml_dtypes>=0.5.1,<1",
        "tensorstore>=0.1.84,<0.2",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "gcs": GCS,
        "tensorboard": ["tensorboardX>=2.6,<3"],
        "wandb": ["wandb>=0.22,<0.32"],
        "trackio": ["trackio>=0.40,<0.44"],
        "hf": HUGGING_FACE,
        "docs": [
            "mkdocs>=1.6,<2",
            "mkdocs-material>=9.6,<10",
            "mkdocstrings[python]>=0.29,<2",
        ],
        "lm-eval": ["lm-eval>=0.4.13,<0.5"],
        "test": [
            "pytest>=8,<10",
            "pytest-xdist>=3.8,<4",
            "ruff>=0.17,<0.18",
            "beartype>=0.21,<0.24",
            "tensorboardX>=2.6,<3",
            "safetensors>=0.5,<1",
            "hypothesis>=6.100,<7",
            *GCS,
            *HUGGING_FACE,
        ],
    },
    entry_points={"console_scripts": ["flan-jax=flan_jax.cli.dispatch:program"]},
)
