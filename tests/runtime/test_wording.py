"""The same mistake in each interface gives the same message, with the interface's own name of the option."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import abonyx
from abonyx.alphabet import SequenceLimit
from abonyx.bundle import open_bundle
from abonyx.bundle.threshold import choose_threshold
from abonyx.cli import cli
from abonyx.config import RuntimeConfig
from abonyx.errors import ConfigError, RecordsRejected
from abonyx.input.checked import read_input
from abonyx.wording import EXCEPTIONS, Interface, in_words, option

from ..conftest import EXAMPLES, REPOSITORY

FLAG = re.compile(r"(?<![\\w-])--[A-Za-z]")
# Commands to type in a shell, which every interface may name; and the keys of journals, which are data.
COMMANDS = ("abonyx export", "abonyx evaluate", "--encoder facebook", "abonyx score", "ray start")
JOURNAL_KEYS = {"--format", "--on-invalid", "--domain", "--trim domain", "--gaps", "--keep", "--with", "--panel", "--"}
JOURNAL_KEYS |= {"--heads", "--id-column", "--sequence-column", "--heavy-column", "--light-column", "--sheet"}
JOURNAL_KEYS |= {"--positions", "--exclude", "--rank", "--validated", "--no-pictures"}
CORE = [
    path
    for folder in ("runtime/abonyx", "export/abonyx_export")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
    if path.parent.name != "cli" and path.name not in ("cli.py", "page.py", "report.py", "wording.py")
]


def problem_of(answer: Any) -> str:
    return f"{answer.json['detail']}\n{answer.json['fix']}"


@pytest.fixture
def served() -> Iterator[Any]:
    pytest.importorskip("fastapi", reason="the serve extra is not installed")
    from .serve.serving import service

    with service() as running:
        yield running


def test_an_assay_that_the_head_does_not_declare(run: Any, served: Any, sequences: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_threshold(open_bundle(None), "spr", None)
    python = str(caught.value)
    command = run("score", EXAMPLES, "-o", tmp_path / "out.csv", "--assay", "spr").err
    http = problem_of(served.score(sequences[:1], assay="spr"))
    assert python.startswith("assay spr: the head of") and "Set your own with threshold T" in python
    assert command.startswith("abonyx: --assay spr: the head of") and "Set your own with --threshold T" in command
    assert http.startswith("assay spr: the head of") and "Set your own with threshold T" in http


def test_a_bad_record(run: Any, served: Any, sequences: list[str], tmp_path: Path) -> None:
    source = tmp_path / "in.fasta"
    source.write_text(f">a\n{sequences[0]}\n>b\n!\n")
    with pytest.raises(RecordsRejected) as caught:
        read_input(source, SequenceLimit.of(open_bundle(None).manifest, RuntimeConfig()))
    assert caught.value.fix.endswith("score the others with skip_invalid=True.")
    assert "score the others with --on-invalid skip." in run("score", source, "-o", tmp_path / "out.csv").err
    assert problem_of(served.score([sequences[0], "!"])).endswith("score the others with on_invalid skip.")


def test_a_missing_column(run: Any, served: Any, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("id,sequence\na,EVQL\n")
    with pytest.raises(abonyx.errors.InputError, match="Name one of them with sequence_column"):
        read_input(source, SequenceLimit.of(open_bundle(None).manifest, RuntimeConfig()), sequence_column="vh")
    done = run("score", source, "-o", tmp_path / "out.csv", "--sequence-column", "vh")
    assert "Name one of them with --sequence-column" in done.err
    answer = served.ask("POST", "/v1/score?sequence_column=vh", source.read_bytes(), {"Content-Type": "text/csv"})
    assert "Name one of them with sequence_column" in problem_of(answer)


def test_a_line_of_json_has_the_command_lines_words(run: Any, tmp_path: Path) -> None:
    assert "--assay spr:" in run("score", EXAMPLES, "-o", tmp_path / "out.csv", "--assay", "spr", "--log-json").err


def test_an_error_keeps_its_words_across_processes_and_in_another_error() -> None:
    error = ConfigError(f"{option('assay')} x", f"Leave {option('output')} out.")
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error), ConfigError(*error.marked)):
        assert str(same) == "assay x\nLeave output out."
        assert same.text(Interface.COMMAND_LINE) == "--assay x\nLeave -o out."
        assert (same.what, same.fix) == ("assay x", "Leave output out.")


def test_text_that_only_looks_like_a_mark_stays() -> None:
    assert in_words("{assay} --assay <assay>", Interface.HTTP) == "{assay} --assay <assay>"


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_no_message_below_the_command_line_names_a_flag(path: Path) -> None:
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    strings = {id(node): node for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr):
            strings.pop(id(node.body[0].value), None)
    texts = [node.value for node in strings.values() if isinstance(node.value, str)]
    named = [text for text in texts if FLAG.search(text) and text not in JOURNAL_KEYS]
    assert [text for text in named if not any(command in text for command in COMMANDS)] == []


def test_every_option_named_in_the_core_is_one() -> None:
    context = click.Context(cli)
    commands = [cli.get_command(context, name) for name in cli.list_commands(context)]
    flags = {flag for command in commands if command for param in command.params for flag in param.opts}
    names = {name for path in CORE for name in re.findall(r"(?<![.\w])option\('(\w+)'\)", path.read_text())}
    assert {"assay", "threshold", "variant"} < names
    words = {name: in_words(option(name), Interface.COMMAND_LINE).partition(" ")[0] for name in names}
    assert {name: word for name, word in words.items() if word not in flags} == {}
    assert set().union(*EXCEPTIONS.values()) <= names, "an exception that no message uses"
