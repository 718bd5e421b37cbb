"""The memory that each setting saves, by XLA's analysis of the training step; nothing is run.

  python benchmarks/memory.py [--size=base] [--shape=8x1024/256] [--dtype=float32] [--json=FILE]

T5 1.1 with a vocabulary of 32,128 and Adafactor on one device. 'state' is parameters and optimizer;
'temporaries' is what the step needs besides, gradients included. Peak: both together; the state is
donated.
"""

import argparse
import json

import jax

from flan_jax.config import gin_files
from flan_jax.data.layout import make_layout
from flan_jax.models.architectures import make_model
from flan_jax.optim.adafactor import adafactor
from flan_jax.parallel import partitioning
from flan_jax.training.compile import lower_train_step
from flan_jax.training.config import TrainConfig
from flan_jax.training.state import ShardedState

VARIANTS = (
    {},
    {"microbatches": 4},
    {"remat": "dots"},
    {"remat": "full"},
    {"loss_chunks": 8},
    {"remat": "full", "loss_chunks": 8},
    {"param_dtype": "bfloat16"},
    {"microbatches": 4, "remat": "full", "loss_chunks": 8},
)


def analysis(flags: argparse.Namespace, remat: str = "none", **options) -> dict[str, float]:
    """Megabytes of the step of a variant."""
    batch, source, target = map(int, flags.shape.replace("/", "x").split("x"))
    overrides = {"dropout_rate": 0.0, "dtype": flags.dtype, "remat": remat}
    gin_files.parse_command_line(
        [
            f"--gin_file=gin/size/t5_{flags.size}.gin",
            *(f"--gin.T5Config.{k}={v}" for k, v in overrides.items()),
        ],
        ["flan_jax.models.t5"],
        may_be_unread=("ARCHITECTURE", "SIZE"),
    )
    model, optimizer, layout = (
        make_model("t5", 32128),
        adafactor(1e-3),
        make_layout("t5", source, target, 0),
    )
    config = TrainConfig(**options)
    mesh = partitioning.make_mesh({"data": 1}, jax.devices()[:1])
    sharded = ShardedState(model, optimizer, mesh, layout.shapes(1), 0, config.param_dtype)
    compiled = lower_train_step(model, optimizer, sharded, config, layout.shapes(batch)).compile()
    memory = compiled.memory_analysis()
    state, temporaries = memory.argument_size_in_bytes / 1e6, memory.temp_size_in_bytes / 1e6
    return {"state": state, "temporaries": temporaries, "peak": state + temporaries}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="base", help="of gin/size/t5_*.gin")
    parser.add_argument("--shape", default="8x1024/256", help="rows x inputs/targets")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--json")
    flags = parser.parse_args()
    results = []
    title = f"t5_{flags.size} {flags.shape} {flags.dtype}, MB"
    print(f"{title:<52}{'state':>10}{'temporaries':>13}{'peak':>10}")
    for variant in VARIANTS:
        found = analysis(flags, **variant)
        name = ", ".join(f"{k}={v}" for k, v in variant.items()) or "plain"
        print(
            f"{name:<52}{found['state']:>10,.0f}{found['temporaries']:>13,.0f}{found['peak']:>10,.0f}",
            flush=True,
        )
        results.append({"variant": variant, **found})
    if flags.json:
        with open(flags.json, "w", encoding="utf-8") as file:
            json.dump(
                {
                    "size": flags.size,
                    "shape": flags.shape,
                    "dtype": flags.dtype,
                    "results": results,
                },
                file,
            )


if __name__ == "__main__":
    main()
