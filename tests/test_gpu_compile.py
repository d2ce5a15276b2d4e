"""What GPU kernels are compiled to, where there is no GPU: wide loads, no spills, no contraction.

Each test compiles what it looks at in one process of its own, because every start costs seconds.
"""

import importlib.util
from typing import Any

import pytest

from taskalg.dtypes import FLOATING
from tests import launching, offline
from tests.offline import Case, Machine

if importlib.util.find_spec("triton") is None:
    pytest.skip("kernels are compiled by Triton, which is for Linux", allow_module_level=True)

PAIRS = [("bf16", "f16"), ("f32", "f64"), ("f8_e4m3", "f8_e5m2")]
WIDE = 16  # bytes
OTHERS = (
    Case(("bf16", "f32"), "bf16", "exchange", {"inward": True}),
    Case(("bf16", "f32"), "bf16", "exchange", {"inward": False}),
    Case(("bf16", "bf16"), "f32", "multiply", {"aligned": True}),
    Case(("bf16", "bf16"), "f32", "add_up", {}),
)


def wide(machine: Machine) -> tuple[int, int]:
    """How many loads and stores are as wide as they get."""
    return machine.widths("ld").count(WIDE), machine.widths("st").count(WIDE)


def check(case: Case, machine: Machine) -> None:
    """Hold any kernel to what all of them have to be."""
    assert (machine.stack, machine.local, machine.spills) == (0, 0, 0), case
    assert machine.fusible == 0, case


def check_sum(case: Case, machine: Machine) -> None:
    """Hold a sum to what it needs to run at the speed of memory."""
    check(case, machine)
    assert machine.separate > 0, case
    assert machine.shared == 0, case  # one warp has nothing to exchange, and nobody to wait for
    loads, stores = wide(machine)
    if case.words["aligned"]:  # one more of each copies
        assert loads >= len(case.inputs) + 1 and stores >= 2, case
        loop = machine.fast_loop()
        assert sum("LDG.E.128" in text for text in loop) >= len(case.inputs), case
        assert not any("LDG.E" in t and ".128" not in t and ".64" not in t for t in loop), case
    else:
        assert (loads, stores) == (0, 0), case


def compiled(*cases: Case) -> list[tuple[Case, Machine]]:
    return list(zip(cases, offline.compiled(cases), strict=True))


def of(name: str, terms: int, **more: Any) -> Case:
    return Case((name,) * terms, name, **more)


@pytest.mark.parametrize("pair", PAIRS)
def test_sums_of_one_dtype_are_wide_and_keep_to_registers(pair: tuple[str, str]) -> None:
    first, second = pair
    cases = (of(first, 1), of(first, 5, capability=80), of(second, 2), of(second, 5))
    for case, machine in compiled(*cases):
        check_sum(case, machine)


def test_every_dtype_is_compiled() -> None:
    assert {name for pair in PAIRS for name in pair} == {dtype.name for dtype in FLOATING}


def test_many_terms_mixed_dtypes_and_odd_addresses_keep_to_registers() -> None:
    cases = (
        of("bf16", 8),
        Case(("bf16", "f32", "f16"), "bf16", capability=80),
        Case(("f64", "bf16"), "f32"),
        of("bf16", 2, words={"aligned": False}),
    )
    for case, machine in compiled(*cases):
        check_sum(case, machine)


def test_the_other_kernels_keep_to_registers() -> None:
    for case, machine in compiled(*OTHERS):
        check(case, machine)
        if case.words.get("aligned"):
            assert wide(machine)[0] >= 2, case


def test_new_coefficients_launch_once_and_compile_nothing() -> None:
    found = launching.launched()
    assert found.kernels == 1
    assert set(found.grids) == {found.programs} and len(found.grids) == 2 * launching.CALLS
    assert found.strange == 0
    assert found.set_up > 0 and found.launch > 0


# ---- What the checks can fail on


def test_the_checks_can_fail() -> None:
    usual, odd, fused, squeezed = compiled(
        of("bf16", 1),
        of("bf16", 1, words={"aligned": False}),
        of("bf16", 1, options={"enable_fp_fusion": True}),
        of("bf16", 1, options={"maxnreg": 32}),
    )
    check_sum(*usual)
    with pytest.raises(AssertionError):
        check_sum(usual[0], odd[1])
    assert fused[1].fusible > 0 and fused[1].fused > usual[1].fused
    with pytest.raises(AssertionError):
        check(*fused)
    assert squeezed[1].spills > 0 and squeezed[1].stack > 0
    with pytest.raises(AssertionError):
        check(*squeezed)


SASS = """
.L_x_0:
        /*0000*/                   LDG.E.64 R2, desc[UR4][R2.64] ;
        /*0010*/               @P0 BRA `(.L_x_1) ;
        /*0020*/                   LDG.E.128 R4, desc[UR4][R8.64] ;
.L_x_1:
        /*0030*/              @!P1 BRA `(.L_x_2) ;
        /*0040*/                   DFMA R6, R4, R2, R6 ;
        /*0050*/                   STG.E.128 desc[UR4][R8.64], R4 ;
        /*0060*/                   BRA `(.L_x_3) ;
.L_x_2:
        /*0070*/                   DADD R6, R4, R2 ;
        /*0080*/                   DADD R6, R4, R6 ;
.L_x_3:
        /*0090*/               @P2 BRA `(.L_x_0) ;
        /*00a0*/                   EXIT ;
"""


def test_the_fast_loop_is_the_one_that_reads_sums_and_writes() -> None:
    names = [text.split()[0] for text in offline.fast_loop(SASS)]
    wanted = "STG.E.128 BRA @P2 LDG.E.64 @P0 LDG.E.128 @!P1 DFMA"
    assert sorted(names) == sorted(wanted.split())
    with pytest.raises(ValueError):
        offline.fast_loop(SASS.replace("STG.E.128", "STG.E.U16"))


def test_instructions_are_counted_by_pipe() -> None:
    texts = ["DFMA R6, R4", "@!P1 IMAD.U32 R2", "F2F.F32.F64 R2", "F2FP.BF16.F32", "UIADD3 UR4"]
    found = offline.by_pipe(texts)
    assert found == dict.fromkeys(
        ["FP64", "multiply-add", "conversion", "integer and logic", "uniform"], 1
    )
