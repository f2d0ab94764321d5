"""The commands doctor, verify and inspect. They score nothing, and print what they find to stdout."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from abonyx.cli.example import example
from abonyx.cli.options import BUNDLE, CONFIG_HELP, PATH
from abonyx.cli.printing import print_columns, print_json, print_rows
from abonyx.errors import ConfigError
from abonyx.hub_name import is_hub_name

if TYPE_CHECKING:
    from abonyx.first_open import EngineUse
    from abonyx.run.verification import Verification


def _bundle(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument BUNDLE, and the option --bundle, which means the same. Both set the parameter `bundle`."""

    @functools.wraps(command)
    def with_bundle(bundle: str | None, bundle_option: str | None, **others: Any) -> None:
        if bundle and bundle_option and _place(bundle) != _place(bundle_option):
            raise ConfigError(f"BUNDLE is {bundle} and --bundle is {bundle_option}", "Give only one of them.")
        command(bundle=bundle_option if bundle is None else bundle, **others)

    option = click.option("--bundle", "bundle_option", type=BUNDLE, help="Another way to give BUNDLE.")
    return click.argument("bundle", required=False, type=BUNDLE)(option(with_bundle))


def _place(bundle: str) -> str:
    """Turn a bundle's name into a text. All names of the same bundle give the same text."""
    return bundle if is_hub_name(bundle) else os.path.realpath(bundle)


_JSON = click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")


@click.command(epilog=example("abonyx doctor"))
@_bundle
@click.option(
    "--measure",
    "timed",
    is_flag=True,
    help="Only measure the speed of each variant, in at most 60 s, and print the config lines of the fastest.",
)
@click.option("--again", is_flag=True, help="With --measure: measure again what an earlier command has measured.")
@_JSON
def doctor(bundle: str | None, timed: bool, again: bool, as_json: bool) -> None:
    """Show what this machine can run.

    Lists the engine, devices and threads, and tries each variant of BUNDLE. The exit code is 0 if at least one
    variant can be used here. Without BUNDLE, the bundle is mini, which ships with abonyx.
    """
    from abonyx.cli.doctor import examine
    from abonyx.cli.doctor_text import print_report

    if again and not timed:
        raise ConfigError("--again is given without --measure", "Give both, or leave --again out.")
    report = examine(bundle, timed=timed, again=again)
    if as_json:
        print_json(report)
    else:
        print_report(report)
    sys.exit(report.exit_code)


@click.command(epilog=example("abonyx verify artifacts/mini --deep"))
@_bundle
@click.option("--provider", help="Provider for the self-test: cpu, cuda, coreml or openvino.  [default: cpu]")
@click.option("--variant", help="Variant for the self-test.  [default: the bundle's choice for the provider]")
@click.option("--config", "config_file", type=PATH, help=CONFIG_HELP)
@click.option(
    "--deep",
    is_flag=True,
    help="Also open the bundle in another process, and list the files and sockets that this process has open.",
)
@_JSON
def verify(
    bundle: str | None, provider: str | None, variant: str | None, config_file: Path | None, deep: bool, as_json: bool
) -> None:
    """Check a bundle's files, and its numbers on this machine.

    Reads every byte of every file of BUNDLE, checks the operators of every graph, and scores the golden rows (test
    sequences with stored results). Without BUNDLE, the bundle is mini, which ships with abonyx.
    """
    from abonyx.config import load_config
    from abonyx.run.verification import verify as verify_bundle

    flags = {"bundle": bundle, "provider": provider, "variant": variant}
    found = verify_bundle(load_config(config_file, flags=flags), deep=deep)
    if as_json:
        print_json(found)
    else:
        _print_verification(found)


@click.command(epilog=example("abonyx inspect artifacts/mini"))
@_bundle
@_JSON
def inspect(bundle: str | None, as_json: bool) -> None:
    """Show the origin, licence, heads and variants of a bundle.

    Reads the manifest of BUNDLE and the first line of its card, but does not check the files. Without BUNDLE, the
    bundle is mini, which ships with abonyx.
    """
    from abonyx.bundle import open_bundle
    from abonyx.config import load_config

    opened = open_bundle(load_config(None, flags={"bundle": bundle}).bundle)
    if as_json:
        from abonyx.cli.inspected import inspected

        print_json(inspected(opened))
    else:
        from abonyx.cli.inspect_text import print_bundle

        print_bundle(opened)


def _print_verification(found: Verification) -> None:
    print_rows(
        [
            ("bundle", f"{found.name} ({found.sha256[:12]}), {found.bundle}"),
            ("from the hub", found.hub),
            ("schema", found.schema_version),
            ("hashes", f"{found.files} files, {found.bytes:,} bytes: all as the manifest says"),
            *((f"operators, {name}", operators) for name, operators in found.operators.items()),
            ("self-test", f"{found.golden_rows} golden rows, variant {found.variant} on {found.provider}"),
            ("graph nodes run by", found.placement),
            *_held_rows(found.use),
        ]
    )
    print_columns(
        ["metric", "max |difference| from PyTorch", "limit"],
        [[metric, f"{found.differences[metric]:.3g}", f"{limit:g}"] for metric, limit in found.limits.items()],
    )


def _held_rows(use: EngineUse | None) -> list[tuple[str, object]]:
    if use is None:
        return []
    counts = f"{use.sockets} sockets, {use.children} child processes, {use.threads} threads"
    return [("open model holds", f"{len(use.files)} files, {counts}"), ("its files", use.files)]
