"""The command line. Each command imports what it needs when it runs, so --help loads neither NumPy nor ONNX Runtime."""

from __future__ import annotations

import importlib.metadata
import sys

import click

from abonyx import __version__
from abonyx.cli import bundle as cli_bundle
from abonyx.cli import push as cli_push
from abonyx.cli import reference as cli_reference
from abonyx.cli import scan as cli_scan
from abonyx.cli import serve as cli_serve
from abonyx.cli.embed import embed
from abonyx.cli.evaluate import evaluate
from abonyx.cli.example import example
from abonyx.cli.explain import explain
from abonyx.cli.score import SCORE_EXAMPLE, score
from abonyx.errors import EngineError
from abonyx.logs import LOGGER, to_stderr, verbose
from abonyx.pages import shipped_folder
from abonyx.run.interrupts import ENDING, handled
from abonyx.wording import Interface

# Entry points of this group add commands (abonyx_export adds `export`). The runtime never imports that package.
COMMANDS_GROUP = "abonyx.commands"
EXIT_INTERRUPTED = 130
_LOG_JSON = "--log-json"


class _Commands(click.Group):
    """The runtime's commands, and those that installed packages register."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(entry.name for entry in _registered())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        for entry in _registered() if command is None else ():
            if entry.name == cmd_name:
                command = entry.load()
        if command is not None and _LOG_OPTIONS[0] not in command.params:
            command.params += _LOG_OPTIONS
        return command


def _registered() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=COMMANDS_GROUP)


def _verbose(_context: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        verbose()


# Options of every command. main() looks for --log-json itself, so that an error about options is also a line of JSON.
_LOG_OPTIONS = [
    click.Option(
        ["-v", "--verbose"], is_flag=True, expose_value=False, callback=_verbose, help="Log each step to stderr."
    ),
    click.Option([_LOG_JSON], is_flag=True, expose_value=False, help="Log to stderr as JSON, one object per line."),
]


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Messages name pages docs/NAME.md. These, and the folders configs, deploy and examples, are in "
    f"{shipped_folder()}\n\n{example(SCORE_EXAMPLE)}",
)
@click.version_option(__version__, prog_name="abonyx")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Score antibody sequences for non-specificity (polyreactivity), without PyTorch.

    `abonyx COMMAND --help` describes a command and ends with an example.
    """


for _command in (
    *(score, embed, evaluate, explain),
    *(cli_bundle.doctor, cli_bundle.verify, cli_bundle.inspect),
    *(cli_serve.serve, cli_reference.reference, cli_scan.scan, cli_push.push),
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line. Exits with the code of the error (errors.py), or with EXIT_INTERRUPTED after a signal."""
    # The signal of a scheduler or of a closed terminal acts like Ctrl-C, so that partial files are removed.
    as_json = _LOG_JSON in sys.argv
    with to_stderr(as_json=as_json), handled(_end, ENDING[1:]):
        try:
            cli.main(standalone_mode=False)
        except EngineError as error:
            LOGGER.error(error.text(Interface.COMMAND_LINE), exc_info="--debug" in sys.argv)
            sys.exit(error.exit_code)
        except click.exceptions.Exit as exit_:
            sys.exit(exit_.exit_code)
        except click.ClickException as error:
            if as_json:
                LOGGER.error(error.format_message())
            else:
                error.show()
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            LOGGER.error("interrupted")
            sys.exit(EXIT_INTERRUPTED)


def _end(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
