"""Fuzz one reader: python tests/fuzz/run.py TARGET --runs N.  Needs requirements.txt beside this file.

It starts from corpus/TARGET, stores new inputs in --work, and prints libFuzzer's statistics at the end. After a finding
the exit code is not 0, and --work/TARGET-findings has the bytes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

with atheris.instrument_imports(include=["abonyx", "abonyx_export", "pickletools"]):
    import targets


def main() -> None:
    """Parse the command line and start libFuzzer, which does not return."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=targets.TARGETS)
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions [default: 1,000,000]")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "out" / "fuzz", help="[default: out/fuzz]")
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer's mutations")
    chosen = parser.parse_args()
    grown, findings = chosen.work / chosen.target, chosen.work / f"{chosen.target}-findings"
    for folder in (grown, findings):
        folder.mkdir(parents=True, exist_ok=True)
    options = [f"-runs={chosen.runs}", f"-seed={chosen.seed}", f"-artifact_prefix={findings}/", "-print_final_stats=1"]
    options += ["-max_len=4096", "-len_control=20", "-timeout=20", "-rss_limit_mb=2048", "-verbosity=1"]
    dictionary = HERE / f"{chosen.target}.dict"
    options += [f"-dict={dictionary}"] if dictionary.exists() else []
    corpora = [str(grown), str(HERE / "corpus" / chosen.target)]
    atheris.Setup([sys.argv[0], *options, *corpora], targets.TARGETS[chosen.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
