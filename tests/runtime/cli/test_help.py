"""Every help fits 80 columns and ends with an example that parses."""

from __future__ import annotations

import re
import shlex

import click
import pytest
from click.testing import CliRunner

from abonyx.cli import cli

from ...conftest import REPOSITORY

COMMANDS = cli.list_commands(click.Context(cli))
# The last lines of a help: the heading and one command.
EXAMPLE = re.compile(r"\n  Example:\n    (\S.*)\n\Z")


def help_of(*command: str, columns: int = 80) -> str:
    done = CliRunner().invoke(cli, [*command, "--help"], env={"COLUMNS": str(columns)})
    assert done.exit_code == 0, done.output
    return done.output


def example_of(text: str) -> list[str]:
    """The words of the example in a help text, split as a shell does."""
    found = EXAMPLE.search(text)
    assert found, text[-300:]
    return shlex.split(found[1])


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
class TestHelp:
    @pytest.mark.parametrize("columns", [80, 200])
    def test_it_fits_80_columns(self, command: tuple[str, ...], columns: int) -> None:
        assert [line for line in help_of(*command, columns=columns).splitlines() if len(line) > 80] == []

    def test_it_ends_with_an_example_that_parses(self, command: tuple[str, ...]) -> None:
        program, name, *rest = example_of(help_of(*command))
        assert program == "abonyx"
        assert name in (command or COMMANDS)
        parent = click.Context(cli, info_name=program)
        found = cli.get_command(parent, name)
        assert found is not None
        found.make_context(name, [*rest], parent=parent)  # empties the list; a UsageError names what does not parse
        # an input is a file of the clone, so that the example runs in a clone unchanged
        assert [word for word in rest if word.startswith("examples/") and not (REPOSITORY / word).is_file()] == []


def test_there_are_commands_of_both_packages() -> None:
    assert {"score", "doctor", "fit", "calibrate"} <= set(COMMANDS)


def test_the_list_of_commands_cuts_no_description() -> None:
    described = help_of().split("\nCommands:\n")[1].split("\n\n")[0].splitlines()
    assert len(described) == len(COMMANDS)
    assert [line for line in described if line.endswith("...")] == []


def test_every_option_has_a_help_text() -> None:
    commands = (cli.get_command(click.Context(cli), name) for name in COMMANDS)
    options = [(command.name, each) for command in commands if command for each in command.params]
    assert [(name, each.name) for name, each in options if isinstance(each, click.Option) and not each.help] == []
