"""Counting on texts whose arithmetic stands beside them."""

import textwrap

import pytest

from visa_jax.planning.hlo import count, group_size

# 5 rounds of: gather w [4, 8] from 4 devices of an axis of 2 x 4 devices, x [16, 32] @ w [32, 8], add up over all 8
LOOP = textwrap.dedent("""\
    HloModule jit_step, is_scheduled=true, num_partitions=8

    %add (a: f32[], b: f32[]) -> f32[] {
      %a = f32[] parameter(0)
      %b = f32[] parameter(1)
      ROOT %sum = f32[] add(%a, %b)
    }

    %dots (p0: f32[16,32], p1: f32[3,32,8], p2: s32[]) -> f32[16,8] {
      %p0 = f32[16,32]{1,0} parameter(0)
      %p1 = f32[3,32,8]{2,1,0} parameter(1)
      %p2 = s32[] parameter(2)
      %one = f32[1,32,8]{2,1,0} dynamic-slice(%p1, %p2, %p2, %p2), dynamic_slice_sizes={1,32,8}
      %flat = f32[32,8]{1,0} bitcast(%one)
      ROOT %dot = f32[16,8]{1,0} dot(%p0, %flat), lhs_contracting_dims={1}, rhs_contracting_dims={0}
    }

    %body (state: (s32[], f32[16,32], f32[3,32,8], f32[4,8])) -> (s32[], f32[16,32], f32[3,32,8], f32[4,8]) {
      %state = (s32[], f32[16,32]{1,0}, f32[3,32,8]{2,1,0}, f32[4,8]{1,0}) parameter(0)
      %i = s32[] get-tuple-element(%state), index=0
      %x = f32[16,32]{1,0} get-tuple-element(%state), index=1
      %w = f32[3,32,8]{2,1,0} get-tuple-element(%state), index=2
      %piece = f32[4,8]{1,0} get-tuple-element(%state), index=3
      %whole = f32[16,8]{1,0:T(8,128)S(1)} all-gather(%piece), replica_groups=[2,4]<=[8], dimensions={0}
      %y = f32[16,8]{1,0:T(8,128)S(1)} fusion(%x, %w, %i), kind=kOutput, calls=%dots
      %sum = f32[16,8]{1,0} all-reduce(%y), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
      ROOT %next = (s32[], f32[16,32]{1,0}, f32[3,32,8]{2,1,0}, f32[4,8]{1,0}) tuple(%i, %x, %w, %piece)
    }

    %condition (state: (s32[], f32[16,32], f32[3,32,8], f32[4,8])) -> pred[] {
      %limit = s32[] constant(5)
      %state = (s32[], f32[16,32]{1,0}, f32[3,32,8]{2,1,0}, f32[4,8]{1,0}) parameter(0)
      %i = s32[] get-tuple-element(%state), index=0
      ROOT %less = pred[] compare(%i, %limit), direction=LT
    }

    ENTRY %main (start: (s32[], f32[16,32], f32[3,32,8], f32[4,8])) -> (s32[], f32[16,32], f32[3,32,8], f32[4,8]) {
      %start = (s32[], f32[16,32]{1,0}, f32[3,32,8]{2,1,0}, f32[4,8]{1,0}) parameter(0)
      ROOT %loop = (s32[], f32[16,32], f32[3,32,8], f32[4,8]) while(%start), condition=%condition, body=%body
    }
    """)


def test_a_loop_counts_as_often_as_it_runs():
    once, rounds = count(LOOP)
    assert not rounds
    assert once.flops == 5 * 2 * 16 * 32 * 8
    # gathered: a device passes its 4 x 8 numbers, and those of two others, on; added up: twice 7/8 of 16 x 8
    assert once.collective_bytes == {"all-gather": 5 * 3 * 4 * 8 * 4, "all-reduce": 5 * 2 * 7 / 8 * 16 * 8 * 4}
    assert once.collectives == {"all-gather": 5, "all-reduce": 5}


def test_bytes_are_those_of_hbm_and_of_the_slice():
    """Read: the piece, x, one of three slices of w; written: the sum. What lies in S(1), in vector memory, is free."""
    read = 4 * 8 + 16 * 32 + 32 * 8 + 1  # and the number of the slice
    compared = 1 + 4 + 4  # bytes: a truth value, from two numbers
    assert count(LOOP)[0].bytes == 5 * (4 * (read + 16 * 8) + compared)


def test_a_counter_may_grow_by_more_than_one():
    """0, 2, 4 are below 5: three rounds."""
    grow = "  %two = s32[] constant(2)\n  %grown = s32[] add(%i, %two)\n"
    unrolled = LOOP.replace("  %x = f32[16,32]{1,0} get-", f"{grow}  %x = f32[16,32]{{1,0}} get-")
    unrolled = unrolled.replace("tuple(%i, %x,", "tuple(%grown, %x,")
    assert count(unrolled)[0].flops == 3 * 2 * 16 * 32 * 8


def test_a_loop_whose_end_depends_on_data_stays_apart():
    once, (each,) = count(LOOP.replace("direction=LT", "direction=GT"))
    assert once.flops == 0 and each.flops == 2 * 16 * 32 * 8


def test_the_compiler_may_say_how_often():
    known = LOOP.replace("direction=LT", "direction=GT").replace(
        "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}'
    )
    assert count(known)[0].flops == 7 * 2 * 16 * 32 * 8


@pytest.mark.parametrize(
    ("groups", "members"),
    [
        ("replica_groups={{0,2},{1,3}}", 2),
        ("replica_groups=[4,16]<=[64]", 16),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 4),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_0'}", 2),
        ("channel_id=3", 64),
    ],
)
def test_groups_of_devices(groups, members):
    assert group_size(groups, 64) == members


# dim_labels as a TPU writes x [6, 5, 7] @ w [7, 3, 4]: the kernel's axis of 3 runs over a padded axis of one place
PRODUCT = """HloModule product
ENTRY %main (x: bf16[6,5,7,1], w: bf16[3,4,7,1]) -> bf16[6,5,3,4] {{
  %x = bf16[6,5,7,1] parameter(0)
  %w = bf16[3,4,7,1] parameter(1)
  ROOT %y = bf16[6,5,3,4] convolution(%x, %w), window={{{window}}}, dim_labels=0bf1_1oi0->0b1f
}}
"""


def test_axes_of_a_window_are_numbered_and_not_in_order():
    """Gradient of a kernel: x [8, 16, 2, 5] and y [8, 16, 7] summed over 8 (the window's second axis) and 16."""
    text = """HloModule slope
ENTRY %main (x: bf16[8,16,2,5], y: bf16[8,16,7,1]) -> bf16[2,5,7,1] {
  %x = bf16[8,16,2,5] parameter(0)
  %y = bf16[8,16,7,1] parameter(1)
  ROOT %w = bf16[2,5,7,1] convolution(%x, %y), window={size=1x8}, dim_labels=1f0b_1io0->0bf1
}
"""
    assert count(text)[0].flops == 2 * 8 * 16 * 2 * 5 * 7


# a gather that goes on beside two products: one program line in three
FLIGHT = """HloModule flight, num_partitions=4
%start (a: bf16[4,8], b: bf16[16,8]) -> (bf16[16,8], u32[]) {
  %a = bf16[4,8] parameter(0)
  %b = bf16[16,8] parameter(1)
  %g = bf16[16,8] all-gather(%a), replica_groups={{0,1,2,3}}, dimensions={0}
  %c = u32[] constant(0)
  ROOT %t = (bf16[16,8], u32[]) tuple(%g, %c)
}
%done (a: bf16[4,8], b: bf16[16,8]) -> bf16[16,8] {
  %a = bf16[4,8] parameter(0)
  %b = bf16[16,8] parameter(1)
  ROOT %g = bf16[16,8] all-gather(%a), replica_groups={{0,1,2,3}}, dimensions={0}
}
ENTRY %main (a: bf16[4,8], b: bf16[16,8]) -> bf16[16,8] {
  %a = bf16[4,8] parameter(0)
  %b = bf16[16,8] parameter(1)
  %async-collective-start = (bf16[16,8], u32[]) fusion(%a, %b), output_to_operand_aliasing={{0}: (1, {})}, calls=%start
  %w = bf16[16,8] get-tuple-element(%async-collective-start), index=0
  ROOT %async-collective-done = bf16[16,8] fusion(%a, %w), output_to_operand_aliasing={{}: (1, {})}, calls=%done
}
"""


def test_a_gather_on_its_way_counts_once():
    once, _ = count(FLIGHT)
    assert once.collectives == {"all-gather": 1} and once.collective_bytes == {"all-gather": 3 * 4 * 8 * 2}


def test_products_written_as_convolutions():
    text = PRODUCT.format(window="size=1x3 pad=0_0x2_2 rhs_reversal=0x1")
    assert count(text)[0].flops == 2 * 6 * 5 * 7 * 3 * 4


# arguments of a splash kernel: what is masked (blocks, int8), 16 heads of 6 queries and of 4 + 6 columns, width 8
SPLASH = """HloModule attention
ENTRY %main (m: s8[1,6,10]) -> bf16[{rows}16,6,8] {{
  %m = s8[1,6,10] parameter(0)
  %q = bf16[{rows}16,6,8] parameter(1)
  %k = bf16[{rows}16,10,8] parameter(2)
  %v = bf16[{rows}16,10,8] parameter(3)
  ROOT %splash_mha_{part}_segmented.1 = bf16[{rows}16,6,8] custom-call(%m, %q, %k, %v)
}}
"""


@pytest.mark.parametrize(("rows", "prompts"), [("", 1), ("5,", 5)], ids=["one prompt", "five"])
@pytest.mark.parametrize(("part", "products"), [("fwd", 2), ("dq", 3), ("dkv", 4)])
def test_products_of_a_splash_kernel(rows, prompts, part, products):
    """Two rows of 3 tokens behind a prompt of 4: a query meets 4 and, on average, 1.5 columns. One prompt: no axis."""
    counted = count(SPLASH.format(rows=rows, part=part), own_tokens=3)[0].flops
    assert counted == products * 2 * prompts * 16 * 6 * (4 + 3 / 2) * 8
