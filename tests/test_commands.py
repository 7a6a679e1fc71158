"""The exact commands of `launch`: what a shell and pdsh make of them, what travels in them, and what must not."""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from compact_ds.cli import main
from compact_ds.errors import UserError
from compact_ds.launcher.commands import Command, Task, World, on_node, over_pdsh, pdsh_environment, ssh_options
from compact_ds.launcher.exports import exports

WORLD = World({"a": ["0", "1"], "b": ["0", "1"]}, "a", 29511)
AWKWARD = ["student.scratch={hidden_size: 64}", "x='$HOME `id` %n %h' \"\\;*", "--launch-id=1"]


def _as_pdsh_sends(command: tuple[str, ...], number: int, host: str) -> str:
    """pdsh's substitution, by its manual: %n, %h, and %% for a percent sign."""
    parts = command[-1].split("%%")
    return "%".join(part.replace("%n", str(number)).replace("%h", host) for part in parts)


@pytest.mark.parametrize("max_restarts", [0, 2])
def test_over_pdsh_every_node_runs_its_own_command_word_for_word(max_restarts: int) -> None:
    task = Task("compact_ds.train", AWKWARD, max_restarts)
    command = over_pdsh(task, WORLD, "/shared/my runs 100%", {"OMP_NUM_THREADS": "1", "A": "50% of $x"})
    for number, host in enumerate(WORLD.devices):
        line = _as_pdsh_sends(command, number, host)
        line = line.replace("exec ", "exec printf '%s\\n' \"$A\" ", 1).replace(
            "cd '/shared/my runs 100%'", "A='50% of $x'"
        )
        said = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout.splitlines()
        assert said == ["50% of $x", *on_node(task, WORLD, str(number), host)]
    assert command[:9] == ("pdsh", "-S", "-N", "-R", "ssh", "-f", "1024", "-w", "a,b")


@pytest.fixture
def shares_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """What OMP_NUM_THREADS and CUDA_VISIBLE_DEVICES are for the ranks of each node of 12 cores."""
    (tmp_path / "nproc").write_text("#!/bin/sh\necho 12\n")
    (tmp_path / "nproc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    shown = 'exec sh -c \'echo "$OMP_NUM_THREADS"; echo "$CUDA_VISIBLE_DEVICES"\' '

    def of(devices: dict[str, list[str]], max_restarts: int, exported: dict[str, str]) -> list[list[str]]:
        command = over_pdsh(Task("m", [], max_restarts), World(devices, "a", 1), "/", exported)
        lines = [_as_pdsh_sends(command, number, host) for number, host in enumerate(devices)]
        said = [
            subprocess.run(["sh", "-c", line.replace("exec ", shown, 1)], capture_output=True, text=True, check=True)
            for line in lines
        ]
        return [one.stdout.splitlines() for one in said]

    return of


def test_over_pdsh_restarted_ranks_get_the_devices_of_their_nodes_slots(
    shares_of: Callable[..., list[list[str]]],
) -> None:
    assert shares_of({"a": ["1", "2"], "b": ["1", "2"]}, 2, {}) == [["6", "1,2"], ["6", "1,2"]]
    assert shares_of({"a": ["1", "2"], "b": ["0", "3"], "c": ["2", "3"]}, 2, {}) == [
        ["6", "1,2"], ["6", "0,3"], ["6", "2,3"],
    ]  # fmt: skip
    # DeepSpeed's launcher is told the slots, and picks their devices itself.
    assert shares_of({"a": ["1", "2"], "b": ["1", "2"]}, 0, {}) == [["6", ""], ["6", ""]]


def test_over_pdsh_a_nodes_cores_are_shared_out_unless_the_user_says_how(
    shares_of: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"a": [str(i) for i in range(5)], "b": ["0"], "c": [str(i) for i in range(13)]}
    assert shares_of(sizes, 0, {}) == [["2", ""], ["12", ""], ["1", ""]]
    assert shares_of(sizes, 0, {"OMP_NUM_THREADS": "7"}) == [["7", ""]] * 3
    monkeypatch.setenv("OMP_NUM_THREADS", "4")  # here, what the nodes' own shells say
    assert shares_of(sizes, 0, {}) == [["4", ""]] * 3


def test_deepspeeds_launcher_is_told_every_nodes_devices() -> None:
    words = on_node(Task("m", ["x=1"]), WORLD, "1", "b")
    assert words[3] == "deepspeed.launcher.launch"
    (info,) = [word.partition("=")[2] for word in words if word.startswith("--world_info=")]
    assert json.loads(base64.urlsafe_b64decode(info)) == {"a": ["0", "1"], "b": ["0", "1"]}
    assert {"--node_rank=1", "--master_addr=a", "--master_port=29511"} <= set(words)
    assert words[-2:] == ("m", "x=1")


def test_ssh_checks_host_keys_whatever_the_user_appends() -> None:
    given = {"PDSH_SSH_ARGS_APPEND": "-o StrictHostKeyChecking=no -F mine"}
    appended = pdsh_environment(given, 600)["PDSH_SSH_ARGS_APPEND"]
    assert appended == f"{ssh_options(600)} -o StrictHostKeyChecking=no -F mine"
    shown = subprocess.run(
        ["ssh", "-G", *shlex.split(appended.replace("-F mine", "-F /dev/null")), "nowhere"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "stricthostkeychecking true" in shown  # ssh takes the first value that it meets
    assert "batchmode yes" in shown


@pytest.mark.parametrize("timeout", [5, 6, 20, 59, 60, 600, 100_000])
def test_ssh_gives_a_silent_node_up_neither_after_the_ranks_nor_long_before(timeout: int) -> None:
    words = dict(word.split("=") for word in ssh_options(timeout).split() if "=" in word)
    interval, count = int(words["ServerAliveInterval"]), int(words["ServerAliveCountMax"])
    # By its manual ssh asks after each interval without data, and ends when the last of `count` questions got no answer.
    assert timeout / 2 <= interval * (count + 1) <= timeout
    assert interval <= 15


def test_only_what_ranks_need_travels_and_never_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".deepspeed_env").write_text("GLOO_SOCKET_IFNAME=eth7\n\n# note\nMINE=a b\n")
    environment = {
        "OPENAI_API_KEY": "k", "HF_TOKEN": "t", "NCCL_SECRET": "s", "HOME": "/root", "PATH": "/bin", "MLFLOW_X": "1",
        "NCCL_DEBUG": "INFO", "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "3", "PYTHONPATH": "/p",
    }  # fmt: skip
    assert exports(environment, ["PATH", "NEW=1=2"], home) == {
        "GLOO_SOCKET_IFNAME": "eth7", "MINE": "a b", "NCCL_DEBUG": "INFO", "NEW": "1=2", "OMP_NUM_THREADS": "3",
        "PATH": "/bin", "PYTHONPATH": "/p",
    }  # fmt: skip
    for word in ("HF_TOKEN", "MY_API_KEY=abc123"):
        with pytest.raises(UserError, match="expected no secret") as caught:
            exports(environment, [word], home)
        assert "abc123" not in str(caught.value)
    with pytest.raises(
        UserError, match=r"--export: found NOWHERE; expected a variable that is set; write NOWHERE=VALUE"
    ):
        exports(environment, ["NOWHERE"], home)
    (home / ".deepspeed_env").write_text("OK=1\nWANDB_API_KEY=abc123\n")
    with pytest.raises(UserError, match=r"\.deepspeed_env:2: found WANDB_API_KEY; expected no secret"):
        exports(environment, [], home)


def test_a_dry_run_prints_one_command_of_its_own_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "abc123")
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("nowhere-1 slots=2\nnowhere-2 slots=2\n")
    run_dir = f"run_dir={tmp_path / 'run'}"
    nodes = ["--num-nodes", "3", "--master-addr", "127.0.0.1"]
    lines = []
    for words in (
        ["--nprocs", "2"], ["--nprocs", "2"], ["--hostfile", str(hostfile)],
        ["--node-rank", "2", *nodes, "--nprocs", "2"], ["--node-rank", "2", *nodes, "--max-restarts", "1"],
    ):  # fmt: skip
        assert main(["launch", "arithmetic", *words, "--dry-run", run_dir]) == 0
        lines.append(capsys.readouterr().out)
    assert all(line.count("\n") == 1 and "abc123" not in line for line in lines)
    assert lines[0] != lines[1]  # two runs alike can be told apart by their command line
    assert lines[2].startswith("PDSH_SSH_ARGS_APPEND=") and "-w nowhere-1,nowhere-2" in lines[2]
    assert "--node_rank=2 --master_addr=127.0.0.1 --master_port=29500" in lines[3]
    assert "elastic_agent --nnodes=3 --nproc_per_node=1 --max_restarts=1" in lines[4]
    assert not (tmp_path / "run").exists()


def test_slots_left_out_are_left_out_of_a_run_that_may_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hostfile").write_text("w1 slots=4\nw2 slots=4\n")
    place = ["--hostfile", str(tmp_path / "hostfile"), "--exclude", "w1:0,2@w2:0,2", "--max-restarts", "2"]
    assert main(["launch", "arithmetic", *place, "--dry-run", f"run_dir={tmp_path / 'run'}"]) == 0
    line = shlex.split(capsys.readouterr().out)[-1]
    assert "CUDA_VISIBLE_DEVICES=1,3 exec" in line and "--nproc_per_node=2" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--node-rank", "0"], "--num-nodes: found None; expected the number of nodes"),
        (["--node-rank", "2", "--num-nodes", "2"], "--node-rank: found 2; expected 0 to 1"),
        (["--node-rank", "1", "--num-nodes", "2"], "--master-addr: found nothing; expected the address of node 0"),
        (["--num-nodes", "2"], "--node-rank: found None"),
        (["--hostfile", "nowhere"], "--hostfile nowhere: found No such file or directory"),
    ],
)
def test_nodes_that_do_not_fit_together_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", "arithmetic", *words, "--dry-run"]) == 2
    assert message in capsys.readouterr().err


def test_a_command_prints_as_a_shell_line() -> None:
    assert str(Command(("a b", "c"), {"X": "1 2"})) == "X='1 2' 'a b' c"
