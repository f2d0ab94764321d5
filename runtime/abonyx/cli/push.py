"""`abonyx push`: upload a bundle to the Hugging Face hub."""

from __future__ import annotations

import click

from abonyx.cli.example import example
from abonyx.cli.options import BUNDLE
from abonyx.errors import ConfigError
from abonyx.extras import require
from abonyx.hub_name import HubName, is_hub_name


@click.command(epilog=example("abonyx push artifacts/mini hf:ORG/NAME"))
@click.argument("bundle", type=BUNDLE)
@click.argument("name", metavar="hf:ORG/NAME")
@click.option("--public", is_flag=True, help="Make the repository public.  [default: private]")
@click.option("--publish-sequences", is_flag=True, help="Allow --public for a bundle that stores training sequences.")
def push(bundle: str, name: str, public: bool, publish_sequences: bool) -> None:
    """Upload a bundle to the Hugging Face hub.

    Every file of BUNDLE is checked first. The bundle's card becomes the repository's README.md. The command prints
    the bundle's name with commit and hash. Needs the extra hub, and a token in the variable HF_TOKEN.
    """
    require("push")
    from abonyx.bundle import open_bundle
    from abonyx.bundle.hub.push import push as push_bundle
    from abonyx.config import RuntimeConfig

    if not is_hub_name(name):
        raise ConfigError(f"{name}: is not a name on the hub", "Give hf:ORG/NAME.")
    target = HubName.parse(name)
    opened = open_bundle(RuntimeConfig(bundle=bundle).bundle)
    pinned = push_bundle(opened, target, public=public, publish_sequences=publish_sequences)
    click.echo(str(pinned))
