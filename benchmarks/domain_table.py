"""Judge records of known kinds and measure the time; writes a JSON record and a table in docs/domain.md.

    python benchmarks/domain_table.py --data DIR -o benchmarks/records/domain_table.json --docs docs/domain.md

DIR has jain/, shehata/, harvey/, repertoire/, boughter/ and paired/ (their README says where each set comes from).
The file has over 300 lines, because its sets of records are listed one by one.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from abonyx.domain import NANOBODY_LIKE, judge, judge_in_children, judged_by, reason, refusal
from commands import machine
from domain_proteins import IG_LIKE, PROTEINS, RECEPTORS

# The 7,058 rows of this source lack the start of the domain: they start at IMGT 6 to 19.
TRUNCATED_SOURCE = "oas_briney2019_igm"
TABLE_MARKS = ("<!-- table: made by benchmarks/domain_table.py -->", "<!-- end of table -->")
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """How one set was judged.

    Attributes:
        expected: "trusted", "noted" (only nanobody-like) or "flagged" (or refused).
    """

    name: str
    expected: str
    n: int
    trusted: int
    noted: int
    flagged: int
    refused: int
    reasons: dict[str, int]


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file; lines that start with # are comments."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def column(path: Path, name: str) -> list[str]:
    """One column of a CSV file, without blank cells."""
    return [row[name] for row in read_rows(path) if row[name]]


def count(name: str, expected: str, sequences: Iterable[str]) -> Row:
    """Judge a set."""
    judgements = judge(sequences)
    noted = sum(judgement.flags == (NANOBODY_LIKE,) for judgement in judgements)
    refused = sum(judgement.refusal is not None for judgement in judgements)
    trusted = sum(judgement.trusted for judgement in judgements) - noted
    reasons = Counter(reason(flag) for judgement in judgements for flag in judgement.flags)
    flagged = len(judgements) - trusted - noted - refused
    row = Row(
        name=name,
        expected=expected,
        n=len(judgements),
        trusted=trusted,
        noted=noted,
        flagged=flagged,
        refused=refused,
        reasons=dict(reasons.most_common()),
    )
    print(row)
    return row


def judge_sets(data: Path) -> list[Row]:
    """Every set of the table."""
    jain = column(data / "jain/VH_only_jain.csv", "sequence")
    repertoire = read_rows(data / "repertoire/vh_vhh_repertoire.csv.gz")
    vh = [row for row in repertoire if row["domain"] == "VH"]
    vhh = [row["sequence"] for row in repertoire if row["domain"] == "VHH"]
    paired_jain = read_rows(data / "paired/jain_sd02.csv")
    paired_shehata = read_rows(data / "paired/shehata.csv")
    light = [row["VL"] for row in paired_jain] + [row["light_seq"] for row in paired_shehata]
    scfv = [row["VH"] + "GGGGS" * 3 + row["VL"] for row in paired_jain]
    shuffled = random.Random(20_251)
    boughter = column(data / "boughter/VH_only_boughter_training.csv", "sequence")
    sets = [
        ("VH: Jain", "trusted", jain),
        ("VH: Shehata", "trusted", column(data / "shehata/VH_only_shehata.csv", "sequence")),
        (
            "VH: repertoire, without the source of truncated sequences",
            "trusted",
            [row["sequence"] for row in vh if row["source"] != TRUNCATED_SOURCE],
        ),
        ("VH: Boughter's training set, rows without X", "trusted", [text for text in boughter if "X" not in text]),
        ("VHH: Harvey", "noted", _harvey(data)),
        ("VHH: repertoire", "noted", vhh),
        (
            "VH: repertoire, the source of truncated sequences",
            "flagged",
            [row["sequence"] for row in vh if row["source"] == TRUNCATED_SOURCE],
        ),
        ("VH with X: Boughter's training set", "flagged", [text for text in boughter if "X" in text]),
        ("Light chains: Jain and Shehata", "flagged", light),
        ("scFv: Jain, VH + (GGGGS)3 + VL", "flagged", scfv),
        ("VH and VL joined without a linker: Jain", "flagged", [row["VH"] + row["VL"] for row in paired_jain]),
        ("T-cell receptors", "flagged", list(RECEPTORS.values())),
        ("Ig-like domains", "flagged", list(IG_LIKE.values())),
        ("Unrelated proteins", "flagged", list(PROTEINS.values())),
        ("Jain, shuffled", "flagged", ["".join(shuffled.sample(text, len(text))) for text in jain]),
        ("Jain, reversed", "flagged", [text[::-1] for text in jain]),
        ("Jain + one residue before (M)", "flagged", ["M" + text for text in jain]),
        ("Jain + one residue after (H)", "flagged", [text + "H" for text in jain]),
        ("Harvey + one residue after (H)", "flagged", [text + "H" for text in _harvey(data)]),
        ("Harvey + HHHHHH", "flagged", [text + "HHHHHH" for text in _harvey(data)]),
        ("Jain + HHHHHH", "flagged", [text + "HHHHHH" for text in jain]),
        ("Jain, 1 or 2 residues cut from the start", "trusted", [text[cut:] for text in jain for cut in (1, 2)]),
        (
            "Jain, cut from the start at every later position",
            "flagged",
            [text[cut:] for text in jain for cut in range(3, len(text))],
        ),
        ("Jain, 1 or 2 residues cut from the end", "trusted", [text[:-cut] for text in jain for cut in (1, 2)]),
        (
            "Jain, cut from the end at every earlier position",
            "flagged",
            [text[:-cut] for text in jain for cut in range(3, len(text))],
        ),
        (
            "Jain, 12 residues cut out at every position",
            "flagged",
            [text[:cut] + text[cut + 12 :] for text in jain for cut in range(3, len(text) - 14)],
        ),
        *_patchworks(paired_jain),
    ]
    return [count(name, expected, sequences) for name, expected, sequences in sets]


def _patchworks(paired: list[dict[str, str]]) -> list[tuple[str, str, list[str]]]:
    """Records that can be numbered like a heavy domain, but are a mix of a VH and another sequence."""
    source = random.Random(20_252)
    pairs = [(row["VH"], row["VL"]) for row in paired]
    gfp = PROTEINS["GFP_AEQVI"]

    def shuffled(text: str, start: int, end: int) -> str:
        return text[:start] + "".join(source.sample(text[start:end], end - start)) + text[end:]

    return [
        (
            "Jain, first 50 to 90 residues of VH, then VL",
            "flagged",
            [heavy[:cut] + light for heavy, light in pairs for cut in (50, 60, 70, 90)],
        ),
        (
            "Jain, first 15 residues replaced by a His tag",
            "flagged",
            ["MGSSHHHHHHSSGLV" + heavy[15:] for heavy, _ in pairs],
        ),
        ("Jain, first 20 residues replaced by those of GFP", "flagged", [gfp[:20] + heavy[20:] for heavy, _ in pairs]),
        ("Jain, residues 60 to 90 shuffled", "flagged", [shuffled(heavy, 60, 90) for heavy, _ in pairs]),
        ("Jain, last 4 residues replaced by HHHH", "flagged", [heavy[:-4] + "HHHH" for heavy, _ in pairs]),
        (
            "Jain, 30 residues of GFP inserted in CDR3",
            "flagged",
            [heavy[:-13] + gfp[:30] + heavy[-13:] for heavy, _ in pairs],
        ),
    ]


def _harvey(data: Path) -> list[str]:
    return column(data / "harvey/harvey_1000_labelled.csv.gz", "heavy_seq")


def seconds(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """Wall times of a call. The first call is not counted."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def measure_speed(data: Path, repeats: int) -> dict[str, Any]:
    """Seconds to judge heavy chains (with and without child processes) and light chains, and to start Python."""
    sequences = column(data / "repertoire/vh_vhh_repertoire.csv.gz", "sequence")
    some = random.Random(7).sample(sequences, 4_000)
    many = random.Random(8).sample(sequences, 20_000)
    light = [text for row in read_rows(data / "paired/shehata.csv") for text in [row["light_seq"]]]
    imports = [sys.executable, "-c", "import immunum"]
    nothing = [sys.executable, "-c", "pass"]
    return {
        "repeats": repeats,
        "judge, 4,000 heavy chains": seconds(lambda: judge(some), repeats),
        "of that, refusal": seconds(lambda: [refusal(text) for text in some], repeats),
        f"judge, {len(set(light))} light chains": seconds(lambda: judge(light), repeats),
        "judge, 20,000 heavy chains": {
            f"{children} children": seconds(partial(judge_in_children, many, children=children), repeats)
            for children in (0, 1, 2)
        },
        "python -c pass": seconds(lambda: subprocess.run(nothing, check=True), repeats),
        "python -c 'import immunum'": seconds(lambda: subprocess.run(imports, check=True), repeats),
    }


def measure_bad_input() -> dict[str, dict[str, Any]]:
    """Processor time of the slowest record of each kind of bad input: slow to judge, long, or not a protein."""
    source = random.Random(9)
    heavy = (
        "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWG"
        "GDGFYAMDYWGQGTLVTVSS"
    )

    def repeated(length: int) -> list[str]:
        return [
            ("".join(source.choices(RESIDUES + "X", k=period)) * 1_000)[:length]
            for period in (1, 2, 3, 5, 8, 9, 10, 12, 16, 20)
            for _ in range(20)
        ]

    def rich_in_cysteine(length: int) -> list[str]:
        return [
            "".join("C" if source.random() < share else source.choice(RESIDUES) for _ in range(length))
            for share in (0.1, 0.2, 0.3, 0.4, 0.45)
            for _ in range(20)
        ]

    kinds: dict[str, list[str]] = {
        "one residue": list(RESIDUES),
        "10,000 residues": ["".join(source.choices(RESIDUES, k=10_000))],
        "one letter, 1,000 times": [letter * 1_000 for letter in RESIDUES],
        "one letter, 10,000 times": [letter * 10_000 for letter in RESIDUES],
        "only X": ["X" * length for length in (1, 23, 1_000, 10_000)],
        "23 leading X": ["X" * 23 + heavy],
        "lower case, gaps, NUL, a lone surrogate": [
            heavy.lower(),
            heavy[:50] + "-" + heavy[50:],
            "\0" + heavy,
            heavy + "\ud800",
        ],
        "two domains without a linker": [heavy + heavy],
        "domains to 1,000 residues": [(heavy * 9)[:1_000]],
        "a domain cut at every position": [part for at in range(len(heavy)) for part in (heavy[at:], heavy[:at])],
        "repeats to 400 residues": repeated(400),
        "repeats to 1,000 residues": repeated(1_000),
        "1,000 residues, 10 to 45 % Cys": rich_in_cysteine(1_000),
        "random, 1,000 residues": ["".join(source.choices(RESIDUES, k=1_000)) for _ in range(50)],
    }
    return {kind: _slowest(texts) for kind, texts in kinds.items()}


def _slowest(texts: Sequence[str]) -> dict[str, Any]:
    """The slowest record of a kind. The time of a record is the smallest processor time of three tries."""
    slowest = 0.0
    for text in texts:
        tries = []
        for _ in range(3):
            started = time.process_time()
            judge([text])
            tries.append(time.process_time() - started)
        slowest = max(slowest, min(tries))
    judgements = judge(texts)
    outcomes = Counter(
        "refused" if judgement.refusal else "trusted" if judgement.trusted else "flagged" for judgement in judgements
    )
    return {"records": len(texts), "slowest_ms": round(slowest * 1e3, 2), **outcomes}


def table(rows: Sequence[Row]) -> str:
    """The Markdown table, with shares as percentages and the most frequent reasons."""
    lines = [
        "| set | n | trusted | nanobody-like | flagged | refused | most frequent reasons |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        shares = (f"{100 * value / row.n:.2f} %" for value in (row.trusted, row.noted, row.flagged, row.refused))
        reasons = [f"{name} {number:,}" for name, number in row.reasons.items() if name != NANOBODY_LIKE]
        lines.append(f"| {row.name} | {row.n:,} | {' | '.join(shares)} | {', '.join(reasons[:3])} |")
    return "\n".join(lines)


def write_table(page: Path, text: str) -> None:
    """Replace the text between the two marks of a page."""
    before, rest = page.read_text(encoding="utf-8").split(TABLE_MARKS[0])
    _, after = rest.split(TABLE_MARKS[1])
    page.write_text(f"{before}{TABLE_MARKS[0]}\n{text}\n{TABLE_MARKS[1]}{after}", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = judge_sets(arguments.data)
    record = {
        "machine": machine(),
        "judged_by": judged_by(),
        "sets": msgspec.to_builtins(rows),
        "speed_s": measure_speed(arguments.data, arguments.repeats),
        "bad_input": measure_bad_input(),
    }
    arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if arguments.docs:
        write_table(arguments.docs, table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
