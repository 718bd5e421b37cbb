"""The catalogue through SeqIO: the same tokens as the cache holds, and somebody's own SeqIO task in training."""

import json
import subprocess
import sys

# TensorFlow and SeqIO are imported in a process of their own: no other test may depend on them being loaded.
PROGRAM = """
import dataclasses, json, sys
import numpy as np
import seqio
from flan_jax.data import seqio_tasks
from flan_jax.data.assemble import Data, DataConfig
from flan_jax.data.catalogue import CATALOGUE
from flan_jax.prepare import prepare

config = DataConfig(held_out='nli', vocabulary='bytes', task_feature_lengths={'inputs': 4096, 'targets': 1024},
                    cache_dir=sys.argv[1], batch_size=2, train_steps=1, eval_max_rows=None)
data = Data(config)
names = seqio_tasks.register(data.source, data.vocabulary)
found = {'names': len(names), 'same': []}
for name in ('copa', 'e2e_nlg', 'cola'):
    data.build_shard(name, 0)
    from flan_jax.data.cache import open_train_shard
    shard = open_train_shard(data.shard_path(name, 0))
    task = seqio.get_mixture_or_task(f'flan_{name}')
    lengths = {'inputs': 4096, 'targets': 1024}
    examples = list(task.get_dataset(lengths, split='train', shuffle=False).as_numpy_iterator())
    same = len(examples) == len(shard.inputs) and all(
        e['inputs'].tolist() == shard.inputs[i].tolist() and e['targets'].tolist() == shard.targets[i].tolist()
        for i, e in enumerate(examples))
    twice = list(task.get_dataset(lengths, split='train', shuffle=False, num_epochs=2).as_numpy_iterator())
    other = sum(a['inputs'].tolist() != b['inputs'].tolist() for a, b in zip(twice, twice[len(examples):]))
    found['same'].append([name, same, len(twice) == 2 * len(examples), other > 0])
mixture = seqio.get_mixture_or_task('flan_heldout_nli')
clusters = {CATALOGUE[t.name.removeprefix('flan_')].cluster for t in mixture.tasks}
found['mixture'] = ['nli' not in clusters and 'paraphrase' not in clusters, mixture.get_rate(mixture.tasks[0])]
first = next(iter(mixture.get_dataset({'inputs': 512, 'targets': 128}, split='train', seed=0).as_numpy_iterator()))
found['first'] = sorted(first)
own = dataclasses.replace(config, mixture_or_task_name='flan_copa', held_out='none', train_steps=3,
                          task_feature_lengths={'inputs': 512, 'targets': 128})
batches = prepare(own).batches()
found['own'] = batches.datasets_at(0)
print('FOUND ' + json.dumps(found))
"""


def test_seqio_gives_the_tokens_of_the_cache(tmp_path):
    result = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=600)
    line = next((line for line in result.stdout.splitlines() if line.startswith("FOUND ")), None)
    assert line, result.stdout + result.stderr
    found = json.loads(line.removeprefix("FOUND "))
    assert found["same"] == [[name, True, True, True] for name in ("copa", "e2e_nlg", "cola")]
    assert found["mixture"] == [True, 12.0]
    assert {"inputs", "targets"} <= set(found["first"])
    assert found["own"] == ["flan_copa"]
    assert found["names"] > 70 + 12
