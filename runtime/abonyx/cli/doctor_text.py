"""The text that `abonyx doctor` prints."""

from __future__ import annotations

from abonyx.cli.doctor import Report
from abonyx.cli.measure import Measured, Speeds, fastest
from abonyx.cli.printing import print_columns, print_rows, print_text
from abonyx.cli.timing import RESIDUES
from abonyx.wording import Interface, in_words


def _gigabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e9:.1f} GB"


def print_report(report: Report) -> None:
    """Print a report as rows and tables."""
    machine, engine, cuda = report.machine, report.engine, report.cuda
    quota = "none" if machine.processor_quota is None else f"{machine.processor_quota:g}"
    cards = [
        f"{card.name}, {_gigabytes(card.free_bytes)} free of {_gigabytes(card.total_bytes)}"
        + (f" ({card.problem})" if card.problem else "")
        for card in cuda.devices
    ]
    print_rows(
        [
            ("abonyx", report.abonyx),
            ("system", f"{machine.system}, Python {machine.python}"),
            ("processor", f"{machine.processor.label()}: {' '.join(machine.processor.instruction_sets) or 'unknown'}"),
            ("processors", f"{machine.processors}, allowed {machine.allowed_processors}, container quota {quota}"),
            ("threads", machine.threads),
            (
                "memory",
                f"{_gigabytes(machine.memory_bytes)} ({machine.memory_source}), available "
                f"{_gigabytes(machine.available_memory_bytes)}",
            ),
            ("engine", engine.version and f"ONNX Runtime {engine.version}"),
            ("distributions", engine.distributions or "none"),
            ("providers compiled in", engine.providers),
            ("devices found", engine.devices),
            ("libraries missing", engine.missing_libraries or ("" if engine.error else "none")),
            ("NVIDIA driver", cuda.version and f"CUDA up to {cuda.version}"),
            ("NVIDIA cards", cards or cuda.problem),
            ("engine problem", engine.error),
            ("note", in_words(engine.note, Interface.COMMAND_LINE)),
            ("bundle", report.bundle),
            ("bundle problem", report.bundle_error),
        ]
    )
    if report.trials:
        print_columns(
            ["variant", "provider", "usable here", "graph nodes run by, or why not"],
            [
                [
                    trial.variant + (" (default)" if trial.default else ""),
                    trial.provider,
                    "no" if trial.error else f"yes ({trial.seconds:.2f} s)",
                    trial.error or trial.placement,
                ]
                for trial in report.trials
            ],
        )
    if report.speeds is not None:
        _print_speeds(report.speeds)


def _print_speeds(speeds: Speeds) -> None:
    print_columns(
        ["variant", "provider", f"sequences/s of {RESIDUES} residues", "max |dp| at export", "opened in"],
        [
            [
                one.variant + (" (default)" if one.default else ""),
                one.provider,
                one.why_not or _rate(one),
                "" if one.max_dp is None else f"{one.max_dp:.1e}",
                "" if one.open_s is None else f"{one.open_s:.1f} s",
            ]
            for one in speeds.measured
        ],
    )
    if chosen := fastest(speeds.measured):
        print_text(f"Use {chosen.variant} on {chosen.provider} here. In a config file:\n")
        print_text("\n".join(f"  {line}" for line in speeds.config) + "\n")
    if any(one.shared_with_others for one in speeds.measured):
        print_text("Other processes were busy, which lowers these rates. Measure again when they are not.\n")
    if speeds.recorded:
        print_text("Other engines. These figures are from the project's records, not from this machine:")
        print_columns(
            ["provider", "variant", "sequences/s", "encoder", "on", "benchmarks/records/"],
            [
                [
                    row.provider,
                    row.variant,
                    f"{row.sequences_per_s:g}",
                    f"{row.layers} layers of {row.hidden}",
                    row.processor + (f", {row.threads} threads" if row.threads else ""),
                    row.record,
                ]
                for row in speeds.recorded
            ],
        )


def _rate(one: Measured) -> str:
    text = f"{one.sequences_per_s:.3g}"
    if one.remembered:
        text += f" (remembered, {one.measured_on})"
    if one.shared_with_others:
        had, threads = one.shared_with_others
        text += f" (got {had:g} of {threads} processors)"
    return text
