"""Run the benchmarks and write their output into docs/benchmarks.md.

python -m benchmarks [--only WORD]
"""

import argparse
import subprocess
import sys
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
TITLE = """\
# Benchmarks

`make bench` writes this page. It needs a machine with nothing else to do; these figures come from a virtual machine
whose speed varied up to twofold between parts. The command above each part runs that part alone, and
`python -m benchmarks --only WORD` rewrites the parts whose command contains the word. What is compared takes turns in
one process. A time is the median over rounds, and a ratio is that of two medians: below 1, ours is faster. With one
thread the times are the processor's, with more threads they are the clock's.
"""
# Titles, and the commands that print the sections.
PARTS = {
    "Norms, one thread": "benchmarks.norms --threads 1",
    "Norms, two threads": "benchmarks.norms --threads 2",
    "Norms under torch.compile": "benchmarks.norms compiled --threads 2",
    "Memory": "benchmarks.norms memory --threads 2",
    "Time against size": "benchmarks.norms growth --threads 1",
    "Whole training steps, and time against depth": "benchmarks.steps --threads 2",
    "The training loop": "benchmarks.training --rounds 3 --steps 12",
    "From nothing to a test accuracy on Fashion-MNIST": "benchmarks.processes training",
    "Cold start": "benchmarks.processes start --rounds 2",
    "Statistics of norms in TensorBoard": "benchmarks.norm_statistics",
    "Padding": "benchmarks.padding",
    "What synchronization sends": "benchmarks.synchronization sent",
    "Synchronized batch norms, two processes": "benchmarks.synchronization time",
}


def run(command: str) -> str:
    """The section of a command: the command and its output."""
    print(f"python -m {command}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", *command.split()], stdout=subprocess.PIPE, text=True, check=True)
    return f"```\npython -m {command}\n```\n\n{done.stdout.strip()}\n"


def sections(text: str) -> dict[str, str]:
    """The sections of a document, by title."""
    parts = (part.split("\n\n", 1) for part in text.split("\n## ")[1:])
    return {title: body.strip("\n") + "\n" for title, body in parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="part of a command")
    only = parser.parse_args().only
    found = sections(DOCUMENT.read_text()) if DOCUMENT.exists() else {}
    for title, command in PARTS.items():
        if only in command:
            found[title] = run(command)
            known = [title for title in PARTS if title in found]
            DOCUMENT.write_text("\n".join([TITLE, *(f"## {title}\n\n{found[title]}" for title in known)]))


if __name__ == "__main__":
    main()
