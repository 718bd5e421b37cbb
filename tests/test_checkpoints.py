"""Checkpoints: what stays, what is restored, and what is refused; and T5X's own format."""

import jax
import numpy as np
import pytest

from flan_jax.checkpoints import manager, steps
from flan_jax.checkpoints.formats import t5x
from flan_jax.checkpoints.load import load_parameters
from flan_jax.errors import UserError
from support import golden
from support.states import make_state


def test_a_state_comes_back_as_it_was(tmp_path):
    run = manager.Checkpoints(tmp_path / "checkpoints")
    assert run.latest_step() is None
    run.save(7, make_state(7.0))
    run.wait()
    run.close()
    again = manager.Checkpoints(tmp_path / "checkpoints")
    abstract = jax.eval_shape(lambda: make_state(0.0))
    restored = again.restore(abstract)
    assert jax.tree.structure(restored) == jax.tree.structure(make_state(7.0))
    jax.tree.map(np.testing.assert_array_equal, restored, make_state(7.0))
    for path in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "7"):
        step, params = load_parameters(path, abstract["params"])
        assert step == 7
        jax.tree.map(np.testing.assert_array_equal, params, make_state(7.0)["params"])
    again.close()


# without optimizations, equal arrays of one program may share a buffer, which is donated once
@pytest.mark.optimized
def test_donating_what_is_being_saved_is_safe(tmp_path):
    run = manager.Checkpoints(tmp_path)
    state = make_state(1.0)
    run.save(1, state)
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0)
    jax.block_until_ready(overwrite(state))
    run.wait()
    restored = run.restore(jax.eval_shape(lambda: make_state(0.0)))
    jax.tree.map(np.testing.assert_array_equal, restored, make_state(1.0))
    run.close()


def saved_steps(directory) -> list[int]:
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


@pytest.mark.parametrize(
    "losses, best",
    [
        ((5.0, 9.0, 6.0, 1.0, 4.0, 7.0), 4),
        ((3.0, 1.0, 1.0, 5.0, 6.0, 7.0), 3),
        ((3.0, 1.0, float("nan"), 5.0, 6.0, 7.0), 2),
    ],
)
def test_the_last_and_the_best_stay(tmp_path, losses, best):
    run = manager.Checkpoints(tmp_path, keep=2)
    for step, loss in enumerate(losses, start=1):
        run.save(
            step, make_state(float(step)), {"validation_loss": loss, "validation_accuracy": 1.0}
        )
    run.save(7, make_state(7.0))  # as where SIGTERM ends a run: without a validation
    run.close()
    assert saved_steps(tmp_path) == [best, 6, 7]
    params = jax.eval_shape(lambda: make_state(0.0))["params"]
    assert (
        load_parameters(tmp_path, params, "best")[0] == best
        and load_parameters(tmp_path, params)[0] == 7
    )


def test_without_validation_there_is_no_best(tmp_path):
    run = manager.Checkpoints(tmp_path)
    run.save(1, make_state(1.0))
    run.close()
    with pytest.raises(UserError, match="no checkpoint with a validation loss found in"):
        steps.checkpoint_path(tmp_path, "best")
    with pytest.raises(UserError, match="no checkpoint of step 5 found in"):
        steps.checkpoint_path(tmp_path / "1", 5)


def test_what_cannot_work_is_said_in_one_sentence(tmp_path):
    run = manager.Checkpoints(tmp_path / "run")
    abstract = jax.eval_shape(lambda: make_state(0.0))
    with pytest.raises(UserError, match="no checkpoint found in"):
        run.restore(abstract)
    run.save(1, make_state(1.0))
    run.wait()
    with pytest.raises(
        UserError, match=r"layers_0/kernel: \(4, 8\) in the checkpoint, \(4, 9\) in"
    ):
        run.restore(jax.eval_shape(lambda: make_state(0.0, width=9)))
    with pytest.raises(
        UserError, match=r"model: unexpected: step; give the gin files .* or another MODEL_DIR"
    ):
        run.restore({"params": abstract["params"], "opt_state": abstract["opt_state"]})
    with pytest.raises(UserError, match="give a run's directory"):
        steps.checkpoint_path(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="another MODEL_DIR"):
        manager.Checkpoints(tmp_path / "file")
    run.close()


@golden.needs_golden
def test_t5x_checkpoints_are_read_whole():
    path = golden.T5_V512 / "legacy/checkpoint_3"
    assert t5x.is_t5x(path) and not t5x.is_t5x(golden.T5_V512)
    step, params = golden.read_t5x(path)
    lines = (golden.T5_V512 / "model-info.txt").read_text().splitlines()
    listed = {
        line.split()[1]
        for line in lines
        if line.startswith(("Variable encoder", "Variable decoder", "Variable tok"))
    }
    assert step == 3 and listed == golden.named(params).keys()
    assert sum(x.size for x in jax.tree.leaves(params)) == 12384
    slots = t5x.open_t5x(path).slots
    embedding = "token_embedder/embedding"
    assert slots[f"v/{embedding}"].shape == (512, 8) and slots[f"v_row/{embedding}"].shape == (1,)
    assert t5x.open_t5x(golden.T5_BF16 / "legacy_bf16/checkpoint_100").slots is None


def test_what_is_no_t5x_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="checkpoint_<step>"):
        t5x.open_t5x(tmp_path)
