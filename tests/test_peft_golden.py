"""Adapters of Hugging Face's peft against the numbers that peft itself computed.

Logits, losses, gradients, steps of AdamW and merged weights, with scanned and unscanned layers; the
names and axes of what is compared are those that the adapters are written with.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flan_jax.checkpoints.formats import adapter_config, huggingface_peft, safetensors_files
from flan_jax.checkpoints.load import load_parameters
from flan_jax.checkpoints.reader import Tensor
from flan_jax.checkpoints.tuned import merged_reader, open_tuned
from flan_jax.models import losses, stacking
from flan_jax.models.architectures import model_of
from flan_jax.models.stacking import named
from flan_jax.parallel import partitioning
from flan_jax.peft.tuning import flat, joined, nested
from support import golden

ROOT = golden.ROOT / "peft"
pytestmark = pytest.mark.skipif(
    not ROOT.is_dir(), reason=f"NOT CHECKED AGAINST PEFT: its golden numbers are not at {ROOT}"
)
LORA = ["lora_qv_r4_a8", "lora_all_r4_a16_rslora", "lora_all_r2_a4_head"]
CASES = [
    *(("t5_untied", case) for case in [*LORA, "ia3"]),
    *(("t5_tied", case) for case in [*LORA[:2], "ia3"]),
    *(("llama", case) for case in [*LORA, "ia3"]),
]
MERGED = [(family, case) for family, case in CASES if case in LORA]


class Case:
    """A golden case: the model with the adapter in memory, its batch, and peft's numbers."""

    def __init__(self, family, case, scan_layers=True):
        self.path = ROOT / family / case
        self.numbers = np.load(self.path / "golden.npz")
        self.tuned = open_tuned(self.path)
        config = dataclasses.replace(
            self.tuned.base.config, dropout_rate=0.0, scan_layers=scan_layers
        )
        self.model = model_of(config)
        self.batch, self.targets, self.is_compared = batch_of(self.numbers)
        boxed = jax.eval_shape(lambda: self.model.init(jax.random.key(0), self.batch)["params"])
        self.abstract = partitioning.unbox(boxed)
        _, self.params = load_parameters(self.path, self.abstract)
        _, base = load_parameters(self.tuned.base.path, self.abstract)
        trained = nested({n: t.read() for n, t in self.tuned.checkpoint.tensors.items()})
        self.trained = stacking.stack(trained) if scan_layers else trained
        names = flat(self.trained)
        self.frozen = nested({n: leaf for n, leaf in flat(base).items() if n not in names})

    def loss_and_logits(self, params):
        """The mean loss over the targets, as peft has it: without z-loss; and the logits."""
        logits = self.model.apply({"params": params}, self.batch)
        weights = (self.targets >= 0).astype(np.float32)
        total = losses.token_loss(logits, np.maximum(self.targets, 0), weights, z_loss=0.0)[0]
        return total / weights.sum(), logits

    def loss_of_trained(self, trained):
        """The loss as a function of what trains."""
        return self.loss_and_logits(joined(trained, self.frozen, self.tuned.record.scale))[0]

    def in_peft(self, trained, directory):
        """What trains by peft's names and with its axes, as written."""
        directory.mkdir()
        leaves = named(stacking.unstack(trained))
        tensors = {
            name: Tensor(leaf.shape, np.dtype(np.float32), lambda leaf=leaf: np.asarray(leaf))
            for name, leaf in leaves.items()
        }
        adapter = dataclasses.replace(self.tuned.checkpoint, tensors=tensors)
        huggingface_peft.write_adapter(
            directory, adapter, self.tuned.record, self.tuned.base, "base", None, lambda _: None
        )
        written = safetensors_files.open_weights(directory / adapter_config.WEIGHTS)
        return {name: tensor.read() for name, tensor in written.items()}

    def expected(self, prefix):
        """The arrays of the golden file below a prefix, by the names of saved adapters."""
        return {
            name.removeprefix(prefix).replace(".modules_to_save.", "."): self.numbers[name]
            for name in self.numbers.files
            if name.startswith(prefix)
        }


def batch_of(numbers):
    """Returns (our batch, targets with -100 where there is no loss, which logits are compared)."""
    ids, mask = numbers["batch/input_ids"], numbers["batch/attention_mask"]
    labels = numbers["batch/labels"]
    if labels.shape != ids.shape:  # T5
        shifted = np.concatenate([np.zeros_like(labels[:, :1]), labels[:, :-1]], 1)
        batch = {
            "encoder_input_tokens": ids,
            "encoder_segment_ids": mask,
            "decoder_input_tokens": np.maximum(shifted, 0),
            "decoder_segment_ids": np.ones_like(labels),
        }
        targets, is_compared = labels, np.ones(labels.shape, bool)
    else:
        batch = {
            "decoder_input_tokens": ids,
            "decoder_segment_ids": mask,
            "decoder_positions": np.tile(np.arange(ids.shape[1]), (len(ids), 1)),
            "decoder_causal_attention": np.zeros_like(ids),
        }
        targets = np.concatenate([labels[:, 1:], np.full_like(labels[:, :1], -100)], 1)
        is_compared = mask == 1
    return {name: array.astype(np.int32) for name, array in batch.items()}, targets, is_compared


def assert_near(got, expected, share, name=""):
    """Asserts that arrays differ by at most a share of the largest expected number."""
    assert got.shape == expected.shape, name
    most = np.abs(np.asarray(got, np.float64) - expected).max() / np.abs(expected).max()
    assert most <= share, f"{name}: {most}"


@pytest.mark.parametrize("scan_layers", [True, False], ids=["scanned", "unscanned"])
@pytest.mark.parametrize("family, name", CASES)
def test_logits_loss_gradients_and_steps_are_those_of_peft(tmp_path, family, name, scan_layers):
    case = Case(family, name, scan_layers)
    loss, logits = jax.jit(case.loss_and_logits)(case.params)
    compared = case.is_compared
    assert_near(np.asarray(logits)[compared], case.numbers["logits"][compared], 1e-5, "logits")
    assert_near(loss, case.numbers["loss"], 1e-5, "loss")

    optimizer = optax.adamw(3e-3, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01)

    @jax.jit
    def step(trained, state):
        loss, grads = jax.value_and_grad(case.loss_of_trained)(trained)
        updates, state = optimizer.update(grads, state, trained)
        return loss, grads, optax.apply_updates(trained, updates), state

    trained = jax.tree.map(jnp.asarray, case.trained)
    state, found, first = optimizer.init(trained), [], None
    for _ in range(5):
        loss, grads, trained, state = step(trained, state)
        first = grads if first is None else first
        found.append(loss)
    found.append(step(trained, state)[0])
    assert_near(np.array(found), case.numbers["adamw/losses"], 1e-4, "losses")

    expected, written = case.expected("grad/"), case.in_peft(first, tmp_path / "grads")
    assert written.keys() == expected.keys()
    for key, grad in expected.items():
        assert_near(written[key], grad, 5e-4, key)
    expected, written = case.expected("adamw/after/"), case.in_peft(trained, tmp_path / "after")
    assert written.keys() == expected.keys()
    for key, after in expected.items():
        assert_near(written[key], after, 1e-4, key)


@pytest.mark.parametrize("family, name", MERGED)
def test_merged_weights_and_logits_are_those_of_peft(family, name):
    case = Case(family, name)
    merged, expected = merged_reader(case.tuned), case.expected("merged/")
    names = huggingface_peft.huggingface.tensor_names(case.tuned.base.config, "base")
    changed = set()
    for ours, tensor in merged.tensors.items():
        array, before = tensor.read(), case.tuned.base.tensors[ours].read()
        if np.array_equal(array, before):
            continue
        changed.add(names[ours])
        array = array.T if array.ndim == 2 else array
        assert_near(array, expected[names[ours]], 1e-6, ours)
    assert changed == expected.keys()
    arrays = nested({name: tensor.read() for name, tensor in merged.tensors.items()})
    logits = jax.jit(case.model.apply)({"params": stacking.stack(arrays)}, case.batch)
    compared = case.is_compared
    assert_near(np.asarray(logits)[compared], case.numbers["merged_logits"][compared], 1e-5)


@pytest.mark.parametrize("family, name", CASES)
def test_tensors_are_written_as_they_were_read(tmp_path, family, name):
    case = Case(family, name)
    written = case.in_peft(case.trained, tmp_path / "back")
    stored = safetensors_files.open_weights(case.path / adapter_config.WEIGHTS)
    assert written.keys() == stored.keys()
    for key, tensor in stored.items():
        assert written[key].tobytes() == tensor.read().tobytes(), key
    again = open_tuned(tmp_path / "back", base=case.path / "../base").checkpoint
    assert again.tensors.keys() == case.tuned.checkpoint.tensors.keys()
