"""The GPU's benchmark runs where kernels are interpreted; its figures mean nothing there."""

from collections.abc import Mapping
from fractions import Fraction

import pytest

pytest.importorskip("triton", reason="the engine's kernels are Triton's, which is for Linux")

import torch

from taskalg.engines.gpu.device import device
from taskalg.errors import UsageError
from tests.bench import gpu, static
from tests.bench.gpu import Clock, Live5, State

SHAPES = {"w": (3, 100), "norm": (7,)}


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock(torch.device(device()))


@pytest.fixture(scope="module")
def states(clock: Clock) -> Mapping[str, State]:
    return gpu.made(SHAPES, clock.device)


@pytest.fixture(scope="module")
def five(states: Mapping[str, State], clock: Clock) -> Live5:
    return Live5(states, clock.device)


def test_all_contestants_make_about_the_same_weights(
    states: Mapping[str, State], five: Live5, clock: Clock
) -> None:
    for label, call in gpu.contestants(states, five, clock).items():
        assert clock.milliseconds(label, call)[label] > 0
    five.live.set(strength=0.4)
    five.resident([gpu.coefficients(Fraction("0.4"))])
    foreach = dict(zip(SHAPES, gpu.with_foreach(states, 0.4), strict=True))
    loop = gpu.with_task_vectors(states, 0.4)
    for name, wanted in five.live.state_dict().items():
        assert torch.equal(five.target[name], wanted)
        for found in (foreach[name], loop[name]):
            assert torch.allclose(found, wanted, rtol=0.02, atol=0.002)


def test_wrong_elements_are_counted(states: Mapping[str, State], five: Live5) -> None:
    five.live.set(strength=0.7)
    assert gpu.wrong_elements(states, five.live) == 0
    five.live.state_dict()["norm"][2:4] += 1
    assert gpu.wrong_elements(states, five.live) == 2
    assert gpu.wrong_elements(states, five.live, most=6) == 0  # none is looked at
    five.set()


def test_host_work_ends_where_a_kernel_is_launched(five: Live5, clock: Clock) -> None:
    taken = gpu.host_work(five, clock, calls=2)
    assert len(taken) == 2 and min(taken) > 0
    assert five.live.values == {"strength": Fraction(five.count, 1000)}


def test_long_decimals_take_the_double_double_tier(clock: Clock) -> None:
    sums = gpu.LongDecimals({"w": (40,)}, clock.device)
    assert sums.nbytes == 40 * 4 * 6
    assert sums.evaluate().tier2 == sums.count == 40


def test_memory_is_a_share_of_time_that_pipes_need() -> None:
    one = static.Gpu(
        "one", 90, processors=10, clock=1e9, memory=12e9, lanes={"issue": 4, "FP64": 2}
    )
    assert static.shares(one, {"issue": 20.0, "FP64": 2.0}, 12) == {"issue": 0.5, "FP64": 0.1}
    assert static.shares(one, {}, 12) == {"issue": 0.0, "FP64": 0.0}


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    monkeypatch.setattr(gpu, "is_interpreted", lambda: False)
    monkeypatch.setattr(gpu, "unavailable", lambda: UsageError("no NVIDIA GPU was found"))
    with pytest.raises(SystemExit, match="no NVIDIA GPU was found; --offline shows"):
        gpu.main()
    monkeypatch.setattr(gpu, "is_interpreted", lambda: True)
    with pytest.raises(SystemExit, match="unset TRITON_INTERPRET"):
        gpu.main()
    assert capsys.readouterr().out == ""


@pytest.mark.gpu
def test_kernels_are_counted(five: Live5) -> None:
    five.set()
    before = gpu.compiled_kernels()
    five.set()
    assert gpu.compiled_kernels() == before > 0
