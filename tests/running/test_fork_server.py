"""What workers are copies of."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing import forkserver

import pytest

from t2i_backdoor_bench.running import fork_server
from t2i_backdoor_bench.running.fork_server import begin, possible, start_method, variables_of

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="workers are copies on Linux alone")


@pytest.fixture(autouse=True)
def of_one_thread(monkeypatch) -> None:
    """There are cores for it, and no other test of this process has begun one of other threads."""
    monkeypatch.setattr(fork_server, "cores", lambda: 2)
    if fork_server._begun != [(os.getpid(), variables_of(1))]:
        monkeypatch.setattr(fork_server, "_begun", [])
        forkserver._forkserver.__init__()


def told(pipe) -> None:
    """What a worker has from the start."""
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())
    fork_server.hear_interrupts()
    hears = signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
    names = ("OMP_NUM_THREADS", "TQDM_DISABLE")
    values = [os.environ.get(name) for name in names]
    pipe.send((values, "t2i_backdoor_bench.running.cell" in sys.modules, blocked, hears))


@LINUX
def test_a_worker_has_all_imported_and_its_variables_and_hears_interrupts_when_it_asks() -> None:
    context = start_method("cpu", 1)
    assert context.get_start_method() == "forkserver"
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=told, args=(theirs,))
    process.start()
    theirs.close()
    assert ours.recv() == (["1", "1"], True, True, True)
    process.join()
    assert process.exitcode == 0
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


@LINUX
def test_workers_with_other_threads_and_of_another_process_start_by_themselves(monkeypatch) -> None:
    begin("cpu", 1)
    assert start_method("cpu", 2).get_start_method() == "spawn"
    assert variables_of(None).keys() == {"TQDM_DISABLE"}
    monkeypatch.setattr(fork_server.os, "getpid", lambda: 1)
    assert start_method("cpu", 1).get_start_method() == "spawn"


def test_no_copies_where_a_gpu_may_be_used(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(fork_server.sys, "platform", "linux")
    monkeypatch.setattr(fork_server, "GPUS", (str(tmp_path / "none"),))
    assert [possible(d) for d in ("cpu", "auto", "cuda", "mps")] == [True, True, False, False]
    monkeypatch.setattr(fork_server, "GPUS", (str(tmp_path),))
    assert [possible(d) for d in ("cpu", "auto")] == [True, False]
    monkeypatch.setattr(fork_server.sys, "platform", "darwin")
    assert not possible("cpu")
