"""Make docs/results/README.md from the JSON of the benchmarks: no figure is typed by hand."""

import json

from lorank.atomic import replacing
from record import RESULTS
from sections import bayes, classwise, localization, networks, operators, quaternions, structured
from sections.markdown import Section

HEAD = """# Measured

Every table on this page is made by `python benchmarks/tables.py` from the JSON files in this
folder; each JSON names the command that made it. Ratios are of one run, in turns; machines differ
and single times mean little. MACs count convolutions, linear layers and attention products.
Networks trained on CIFAR-10 at a budget, by several methods, have
[a page of their own](cifar10.md).
"""


SECTIONS = [
    *networks.SECTIONS,
    *operators.SECTIONS,
    *quaternions.SECTIONS,
    *bayes.SECTIONS,
    *structured.SECTIONS,
    *classwise.SECTIONS,
    *localization.SECTIONS,
]
"""In the order of the page; a new one belongs to the file of its subject in sections/."""


def section(of: Section) -> str:
    name, title, make = of
    content = json.loads((RESULTS / f"{name}.json").read_text())
    made = (
        f"`{content['command']}`, {content['date']}, torch {content['torch']}, "
        f"{content['threads']} CPU thread(s). [JSON]({name}.json)"
    )
    return f"## {title}\n\n{make(content['figures'])}\n\n{made}\n"


def main() -> None:
    made = [section(s) for s in SECTIONS if (RESULTS / f"{s[0]}.json").exists()]
    with replacing(RESULTS / "README.md") as draft:
        draft.write_text("\n".join([HEAD, *made]))
    print(f"{len(made)} tables")


if __name__ == "__main__":
    main()
