"""`flan-jax launch` prints what docs/launch shows.

Shells read it right, and two local processes train.
"""

import json
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

from flan_jax import launch
from flan_jax.cli import dispatch
from flan_jax.cli.launch_backends import BACKENDS
from flan_jax.errors import UserError
from support.processes import ended_well, output_tail, simulating
from support.runs import losses
from support.two_processes import ONE_TASK, arguments, free_port

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {
    path.stem: path for path in sorted((ROOT / "docs/launch").glob("*.md")) if path.stem != "README"
}
AWKWARD = [
    "--gin_file=gin/flan.gin",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 16}",
    '--gin.MODEL_DIR=runs/it\'s "so"; $(touch x) `y`',
]
POD = ["--gin.MODEL_DIR=/runs/$(touch x)", "--gin.CACHE_DIR=/runs/cache"]
FLAGS = {
    "local": ["--num_processes=2"],
    "print": ["--hosts=a,b"],
    "tpu_vm": ["--zone=z", "--accelerator_type=v6e-16", "--wheel=dist/flan_jax-1-py3-none-any.whl"],
    "gcluster": ["--tpu=v5p", "--topology=2x4x4", "--image=i", "--claim=c"],
    "slurm": ["--nodes=2", "--gpus_per_node=4"],
}


def printed(capsys, backend: str, *flags: str, train=AWKWARD) -> str:
    train = [*train, *(POD if backend == "gcluster" else ())]
    assert launch.main([f"--backend={backend}", *flags, "--", *train]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_the_docs_show_the_printed_commands(capsys, page):
    pairs = re.findall(
        r"^```\n(flan-jax launch .*?)^```$.*?^```(?:sh|yaml)\n(.*?)^```$",
        page.read_text(),
        re.M | re.S,
    )
    assert pairs and f"--backend={page.stem}" in pairs[0][0]
    for command, shown in pairs:
        assert dispatch.main(shlex.split(command)[1:]) == 0
        assert capsys.readouterr().out == shown


def test_every_backend_has_a_page():
    assert PAGES.keys() == BACKENDS.keys() == FLAGS.keys()
    assert all(f"({name}.md)" in (ROOT / "docs/launch/README.md").read_text() for name in PAGES)


@pytest.mark.parametrize("backend", ["local", "print", "slurm", "tpu_vm"])
def test_a_shell_passes_arguments_to_train_unchanged(capsys, tmp_path, backend):
    """The printed lines run in a shell whose commands note the arguments of train."""
    text = printed(capsys, backend, *FLAGS[backend])
    noted = tmp_path / "noted.jsonl"
    note = (
        f"#!{sys.executable}\nimport json, sys\nopen({str(noted)!r}, "
        "'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
    )
    (tmp_path / "flan-jax").write_text(note)
    # its options, then the command
    (tmp_path / "srun").write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    (tmp_path / "gcloud").write_text(
        '#!/bin/bash\nfor a; do case "$a" in --command=flan/bin/*) bash -c '
        '"${a#--command=flan/bin/}";; esac; done\n'
    )
    for program in ("flan-jax", "srun", "gcloud"):
        (tmp_path / program).chmod(0o755)
    subprocess.run(["bash", "-ec", text], check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    lines = [json.loads(line) for line in noted.read_text().splitlines()]
    assert len(lines) == {"local": 2, "print": 2}.get(backend, 1)
    for line in lines:
        assert line[:4] == ["train", *AWKWARD]
        assert len(line) == (7 if backend in ("local", "print") else 4)


def test_the_manifest_is_yaml_with_unchanged_arguments(capsys):
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load(printed(capsys, "gcluster", *FLAGS["gcluster"], "--slices=2"))
    (slices,) = job["spec"]["replicatedJobs"]
    assert slices["replicas"] == 2 and slices["template"]["spec"]["completions"] == 8
    pod = slices["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "2x4x4",
    }
    (container,) = pod["containers"]
    # as Kubernetes reads it
    command = [argument.replace("$$", "$") for argument in container["command"]]
    assert (
        command == ["flan-jax", "train", *AWKWARD, *POD] and "$$(touch" in container["command"][-2]
    )
    assert pod["terminationGracePeriodSeconds"] == 120
    (rule,) = slices["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rule == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    (volume,) = pod["volumes"]
    assert volume["persistentVolumeClaim"] == {"claimName": "c"}
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/runs"}]


def test_pods_whose_run_is_in_a_bucket_mount_nothing(capsys):
    train = [
        "--gin_file=gin/flan.gin",
        "--gin.MODEL_DIR=gs://b/run",
        "--gin.CACHE_DIR=gs://b/cache",
    ]
    flags = [flag for flag in FLAGS["gcluster"] if not flag.startswith("--claim")]
    assert launch.main(["--backend=gcluster", *flags, "--", *train]) == 0
    assert "volume" not in capsys.readouterr().out
    with pytest.raises(UserError, match="MODEL_DIR is /runs/x, .* give --gin.MODEL_DIR=gs://"):
        launch.main(["--backend=gcluster", *flags, "--", *train, "--gin.MODEL_DIR=/runs/x"])


def test_a_run_is_resumed_with_the_last_step_alone(capsys):
    text = printed(
        capsys,
        "tpu_vm",
        "--zone=z",
        "--accelerator_type=v4-8",
        "--steps=train",
        "--spot",
        "--project=p",
    )
    assert len(text.splitlines()) == 1 and " ssh flan --zone=z --project=p --worker=all " in text
    text = printed(
        capsys, "tpu_vm", "--zone=z", "--accelerator_type=v4-8", "--steps=create", "--spot"
    )
    assert text == (
        "gcloud compute tpus tpu-vm create flan --zone=z --accelerator-type=v4-8 "
        "--version=tpu-ubuntu2204-base --spot\n"
    )


@pytest.mark.parametrize(
    "argv, says",
    [
        ([], "no --backend given; the backends are local, tpu_vm, gcluster, slurm, print"),
        (["--backend=slurmm"], "--backend=slurmm is not one of local"),
        (["--backend=SLURM"], "did you mean slurm?"),
        (["--backend=slurm", "--nodes=2"], "--backend=slurm needs --gpus_per_node: GPUs of each"),
        (
            ["--backend=slurm", *FLAGS["slurm"], "--zone=z"],
            "--zone has no effect with --backend=slurm; it is for tpu_vm",
        ),
        (["--backend=slurm", *FLAGS["slurm"], "--time=1 day"], "has a blank in it"),
        (
            ["--backend=local", "--num_processes=0"],
            "--num_processes=0 must be a whole number of at least 1",
        ),
        (["--backend=local", "--num_proceses=2"], "did you mean --num_processes?"),
        (["--backend=print", "--hosts=a,a"], "must be different host names"),
        (["--backend=print", *FLAGS["print"], "--run"], "--backend=print only prints"),
        (["--backend=tpu_vm", "--zone=z", "--accelerator_type=v4-8"], "needs --wheel=FILE.whl"),
        (
            ["--backend=tpu_vm", "--zone=z", "--accelerator_type=h100-8", "--steps=train"],
            "none of the generations v2, v3",
        ),
        (
            ["--backend=tpu_vm", *FLAGS["tpu_vm"], "--steps=run"],
            "its steps are create, install, train",
        ),
        (["--backend=gcluster", *FLAGS["gcluster"], "--tpu=v9"], "--tpu=v9 is not one of v4"),
        (["--backend=gcluster", *FLAGS["gcluster"], "--topology=16"], "such as 4x4"),
        (["--backend=gcluster", *FLAGS["gcluster"], "--topology=4x4"], "4x4x4 (v4, v5p, tpu7x)"),
        (["--backend=gcluster", *FLAGS["gcluster"], "--topology=0x4x4"], "such as 4x4"),
        (
            ["--backend=gcluster", *FLAGS["gcluster"], "--chips_per_host=5"],
            "no whole number of hosts",
        ),
        (["--backend=gcluster", *FLAGS["gcluster"], "--name=Flan_1"], "must be lower-case letters"),
    ],
)
def test_wrong_flags_are_a_clear_error_message(argv, says):
    with pytest.raises(UserError, match=re.escape(says)):
        launch.main([*argv, "--", *AWKWARD])


@pytest.mark.parametrize("verb", ["eval", "generate"])
def test_an_evaluation_is_launched_as_a_run_is(capsys, verb):
    assert launch.main(["--backend=slurm", *FLAGS["slurm"], "--", verb, *AWKWARD]) == 0
    assert f" flan-jax {verb} --gin_file" in capsys.readouterr().out
    with pytest.raises(UserError, match=f"arguments of {verb} are missing.* -- {verb} --gin_file"):
        launch.main(["--backend=slurm", *FLAGS["slurm"], "--", verb])
    assert launch.main(["--backend=slurm", *FLAGS["slurm"], "--", verb, "/shared/run"]) == 0
    output = capsys.readouterr()
    assert (
        f" flan-jax {verb} /shared/run\n" in output.out
        and "are not checked: '/shared/run' is not" in output.err
    )
    with pytest.raises(SystemExit):
        launch.main(["--help"])
    assert (
        verb in capsys.readouterr().out.split("options:")[0].partition("usage:")[2].splitlines()[0]
    )


@pytest.mark.parametrize(
    "backend, wrapped, says",
    [
        ("slurm", ["--gin.HELD_OTU=nli"], "did you mean --gin.HELD_OUT?"),
        ("slurm", ["--profil=3"], "did you mean --profile?"),
        ("slurm", ["--gin.BATCH_SIZE=0"], "BATCH_SIZE must be"),
        ("local", ["--gin_file=nowhere.gin"], "gin file 'nowhere.gin' is not in"),
        (
            "gcluster",
            ["--gin.CACHE_DIR=/runs/cache"],
            "MODEL_DIR is runs/flan, which ends with the container",
        ),
        (
            "gcluster",
            ["--gin.MODEL_DIR=/runs/nli"],
            "CACHE_DIR is None, .* give --gin.CACHE_DIR=gs://BUCKET/..., or .*=/runs/...",
        ),
    ],
)
def test_errors_of_the_verb_are_reported_before_the_launch(backend, wrapped, says):
    with pytest.raises(UserError, match=says):
        launch.main(
            [f"--backend={backend}", *FLAGS[backend], "--", "--gin_file=gin/flan.gin", *wrapped]
        )


def test_a_wheel_is_of_flan_jax_and_exists_when_it_runs():
    flags = ["--backend=tpu_vm", *FLAGS["tpu_vm"][:2]]
    with pytest.raises(UserError, match="is not a wheel of flan_jax, such as flan_jax-0"):
        launch.main([*flags, "--wheel=torch-1-py3-none-any.whl", "--", *AWKWARD])
    with pytest.raises(UserError, match="flan_jax-1-py3-none-any.whl is not here"):
        launch.main([*flags, "--wheel=flan_jax-1-py3-none-any.whl", "--run", "--", *AWKWARD])


REQUEUED = """
flan-jax() { return "$STATUS"; }
srun() { return "$STATUS"; }
squeue() { echo "$STATE"; }
scontrol() { echo "$@"; }
"""


@pytest.mark.parametrize(
    "status, state, says",
    [
        (143, "RUNNING", "requeue 7\n"),
        (143, "COMPLETING", ""),
        (0, "RUNNING", ""),
        (2, "RUNNING", ""),
    ],
)
def test_a_job_is_requeued_when_saved_and_not_canceled(capsys, status, state, says):
    script = printed(capsys, "slurm", *FLAGS["slurm"])
    result = subprocess.run(
        ["bash", "-c", REQUEUED + script],
        capture_output=True,
        text=True,
        env={"STATUS": str(status), "STATE": state, "SLURM_JOB_ID": "7", "PATH": "/usr/bin:/bin"},
    )
    assert (result.returncode, result.stdout) == (status, says), result.stderr


def test_a_wheel_may_lie_in_the_home_directory(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    text = printed(capsys, "tpu_vm", *FLAGS["tpu_vm"][:2], "--wheel=~/flan_jax-1-py3-none-any.whl")
    assert f"scp {tmp_path}/flan_jax-1-py3-none-any.whl flan:" in text


def test_the_arguments_of_train_are_needed_and_name_no_process():
    with pytest.raises(UserError, match="write them after --"):
        launch.main(["--backend=local", "--num_processes=2", "--gpus"])
    with pytest.raises(UserError, match="--process_id=1 after -- is set by the launcher"):
        launch.main(["--backend=local", "--num_processes=2", "--", *AWKWARD, "--process_id=1"])


@pytest.mark.parametrize("first", ["prepare", "flan-jax"])
def test_verbs_of_a_single_host_are_refused(first):
    with pytest.raises(
        UserError, match=f"begins with '{first}', but the verbs .* are train, eval, generate"
    ):
        launch.main(["--backend=local", *FLAGS["local"], "--", first, *AWKWARD])


def test_a_missing_program_is_a_clear_error_message(monkeypatch):
    if shutil.which("sbatch"):
        pytest.skip("sbatch is here")
    with pytest.raises(
        UserError, match="--run needs the program 'sbatch', which is not installed here"
    ):
        launch.main(["--backend=slurm", *FLAGS["slurm"], "--run", "--", *AWKWARD])


@pytest.mark.slow
def test_two_local_processes_train(tmp_path):
    command = [
        sys.executable,
        "-m",
        "flan_jax.launch",
        "--backend=local",
        "--num_processes=2",
        "--devices=2",
        f"--port={free_port()}",
        "--run",
        "--",
        *arguments(tmp_path / "cache", tmp_path / "run", *ONE_TASK, "--gin.TRAIN_STEPS=3"),
        "--gin.MESH={'data': 2, 'fsdp': 2}",  # as in test_two_processes.py: compiled once
    ]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=400, env=simulating(1), cwd=ROOT
    )
    ended_well(result)
    for index in (0, 1):
        first = rf"^\[{index}\] \d\d:\d\d:\d\d process {index} of 2, 4 cpu devices"
        assert re.search(first, result.stdout, re.MULTILINE), result.stdout
    assert len(losses(tmp_path / "run")) == 3 and (tmp_path / "run/checkpoints/3").is_dir()


@pytest.mark.parametrize(
    "setting, says",
    [
        ("BATCH_SIZE=3", "--gin.BATCH_SIZE="),
        # Found before the processes join.
        pytest.param(
            "VOCABULARY=nowhere.model",
            "VOCABULARY 'nowhere.model' is neither",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_each_local_process_prints_its_error_and_the_status_is_kept(tmp_path, setting, says):
    command = [
        sys.executable,
        "-m",
        "flan_jax.launch",
        "--backend=local",
        "--num_processes=2",
        "--run",
        f"--port={free_port()}",
        "--",
        *arguments(tmp_path / "cache", tmp_path / "run", f"--gin.{setting}"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, env=simulating(1), cwd=ROOT)
    assert result.returncode == 2 and "Traceback" not in result.stdout, output_tail(result)
    assert [
        f"[{i}] flan-jax: error: " in result.stdout and says in result.stdout for i in (0, 1)
    ] == [True] * 2


def test_addresses_with_colons_get_brackets(capsys):
    assert "--coordinator=[fd00::1]:8476" in printed(
        capsys, "print", "--hosts=fd00::1,fd00::2"
    ).replace("'", "")


def test_ending_the_launcher_ends_its_processes():
    code = (
        "import os, sys; from flan_jax import launch; sys.exit(launch._run_together([['sh', '-c', "
        "'echo up; exec sleep 60']] * 2, dict(os.environ)))"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert {launcher.stdout.readline(), launcher.stdout.readline()} == {"[0] up\n", "[1] up\n"}
    launcher.terminate()
    assert launcher.wait(300) == 128 + signal.SIGTERM
