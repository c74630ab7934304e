"""Pairs of runs of different studies: as `s4former table --paired`, the teacher after the last step against the first METHOD.

    python docs/measured/across.py [--by-image] NAME=METHOD NAME=METHOD ...

A METHOD is STUDY/NAME, or several joined by commas whose runs are of different draws. Draws that not all of them have are left out.
"""

import argparse
from pathlib import Path

from s4former.commands.archive import compare_methods, paired_table, read_archive

ARCHIVE = Path(__file__).parent / "archive.jsonl.gz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+", metavar="NAME=METHOD")
    parser.add_argument("--by-image", action="store_true")
    arguments, records = parser.parse_args(), read_archive(ARCHIVE)
    chosen = {}
    for name, _, methods in (word.partition("=") for word in arguments.methods):
        chosen[name] = [record for record in records if f"{record['study']}/{record['method']}" in methods.split(",")]
        if not chosen[name]:
            parser.error(f"the archive has no runs of {methods or name}; write NAME=STUDY/METHOD")
    common = set.intersection(*({run["draw"]["seed"] for run in runs} for runs in chosen.values()))
    together = [
        {**run, "study": "across studies", "protocol": "any", "method": name}
        for name, runs in chosen.items() for run in runs if run["draw"]["seed"] in common
    ]  # fmt: skip
    base = next(iter(chosen))
    print(paired_table(compare_methods(together, base, "teacher", by_image=arguments.by_image), base, "teacher"))


if __name__ == "__main__":
    main()
