"""`abonyx serve`: the options of the HTTP service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from abonyx.cli.example import example
from abonyx.cli.options import BUNDLE, BUNDLE_HELP, CONFIG_HELP, PATH, PROVIDER_HELP, VALIDATED_HELP, VARIANT_HELP
from abonyx.errors import ConfigError
from abonyx.extras import require
from abonyx.serve.settings import ADMIN_TOKEN_VARIABLE, TOKEN_VARIABLE, Settings, read_token

_FLAGS = [one for one in fields(Settings) if "help" in one.metadata]


def _settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each setting that has a help text."""
    for one in reversed(_FLAGS):
        option = click.option(
            _flag_names(one.name, one.default),
            type=one.metadata["type"],
            default=one.default,
            show_default=one.default is not None,
            help=one.metadata["help"],
        )
        command = option(command)
    return command


def _flag_names(name: str, default: object) -> str:
    """The name of a setting's option; a setting that is on or off has two names."""
    flag = name.replace("_", "-")
    return f"--{flag}/--no-{flag}" if isinstance(default, bool) else f"--{flag}"


@click.command(epilog=example("abonyx serve --port 8000"))
@click.option("--bundle", type=BUNDLE, help=BUNDLE_HELP)
@click.option("--provider", help=PROVIDER_HELP)
@click.option("--variant", help=VARIANT_HELP)
@click.option("--config", "config_file", type=PATH, help=f"{CONFIG_HELP} /v1/reload reads it again.")
@click.option("--validated", metavar="METRICS.JSON", type=PATH, help=VALIDATED_HELP)
@_settings_options
@click.option("--token-file", type=PATH, help=f"File with the clients' token; or set {TOKEN_VARIABLE}.")
@click.option(
    "--admin-token-file", type=PATH, help=f"File with the token for /v1/reload; or set {ADMIN_TOKEN_VARIABLE}."
)
@click.option("--workers", type=int, default=1, show_default=True, help="Must be 1, because a process has one session.")
def serve(
    bundle: str | None,
    provider: str | None,
    variant: str | None,
    config_file: Path | None,
    validated: Path | None,
    token_file: Path | None,
    admin_token_file: Path | None,
    workers: int,
    **given: Any,
) -> None:
    """Serve scores over HTTP, with a page for the browser.

    Needs the extra serve. On SIGTERM it finishes the queued requests and ends. A number such as (413) below is the
    HTTP status of the answer to a request over the limit.
    """
    from abonyx.bundle import open_pinned
    from abonyx.config import RuntimeConfig, load_config
    from abonyx.explain.validated import read_validated_for_any

    if workers != 1:
        raise ConfigError(
            f"--workers is {workers}: a service is one process with one session",
            "Leave it out. For more speed, run several services behind a load balancer, each on its own port.",
        )
    require("serve")
    token = read_token(TOKEN_VARIABLE, token_file)
    settings = Settings(**given, token=token, admin_token=read_token(ADMIN_TOKEN_VARIABLE, admin_token_file))
    flags = {"bundle": bundle, "provider": provider, "variant": variant}

    def load() -> RuntimeConfig:
        config, opened = open_pinned(load_config(config_file, flags=flags))
        opened.variant(config.provider, config.variant)
        if validated is not None:  # check it before the open model is closed for another
            read_validated_for_any(validated, opened, config)
        return config

    from abonyx.serve.server import serve as run_service

    run_service(load, settings, validated)
