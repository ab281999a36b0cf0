"""A plan as text."""

from collections.abc import Iterator
from typing import Any

GB = 1e9
COLUMNS = ("program", "times", "HBM GB", "args", "temp", "TFLOP", "GB", "links GB", "seconds", "bound by")


def table(told: dict[str, Any]) -> str:
    """One plan: what ``--json`` prints as lines of Markdown that are read as they are, too."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in told["mesh"].items())
    verdict = "fits" if told["fits"] else "DOES NOT FIT"
    return "\n".join(
        [
            f"{told['topology']}: {told['devices']} devices of {told['hbm_capacity'] / GB:.1f} GB, {mesh}, "
            f"micro_batches {told['micro_batches']}: {verdict}",
            *_aligned([COLUMNS, *(_row(name, cost) for name, cost in told["programs"].items())]),
            *_links(told["programs"]),
            _step(told["step"]) if told["step"] else told["reason"],
        ]
    )


def sweep_table(found: list[dict[str, Any]]) -> str:
    """One line a plan."""
    rows = [("data", "fsdp", "tensor", "micro_batches", "HBM GB", "step s", "fits")]
    for told in found:
        most = max((cost["hbm_bytes"] for cost in told["programs"].values()), default=0)
        sizes = (*told["mesh"].values(), told["micro_batches"])
        took = f"{told['step']['seconds']:.3g}" if told["step"] else ""
        figures = (f"{most / GB:.2f}", took, "yes" if told["fits"] else f"no {told['reason']}")
        rows.append((*map(str, sizes), *figures))
    return "\n".join(_aligned(rows))


def _step(step: dict[str, Any]) -> str:
    bounds = ", ".join(f"{what} {bound:.0%}" for what, bound in step["mfu_bound"].items())
    drawn = f"{step['tokens_per_second']:,.0f} tokens/s drawn"
    return f"a step takes at least {step['seconds']:.3g} s: {drawn}, MFU at most {bounds}"


def _row(name: str, cost: dict[str, Any]) -> tuple[str, ...]:
    held = (f"{cost[which] / GB:.2f}" for which in ("hbm_bytes", "argument_bytes", "temp_bytes"))
    least = [f"{what} {cost[what] / amount:.2f} x least" for what, amount in cost["least"].items() if amount]
    sent = sum(cost["collective_bytes"].values())
    done = (f"{cost['flops'] / 1e12:.3f}", f"{cost['bytes'] / GB:.2f}", f"{sent / GB:.3f}", f"{cost['seconds']:.4g}")
    return (name, str(cost["times"]), *held, *done, ", ".join([cost["bound"], *least]))


def _links(programs: dict[str, Any]) -> Iterator[str]:
    """What is sent between devices, by kind, where it is a megabyte or more."""
    for name, cost in programs.items():
        kinds = [f"{kind} {amount / GB:.3f}" for kind, amount in cost["collective_bytes"].items() if amount >= 1e6]
        if kinds:
            yield f"links of {name}, GB: {', '.join(kinds)}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return [f"| {line} |" for line in (lines[0], " | ".join("-" * width for width in widths), *lines[1:])]
