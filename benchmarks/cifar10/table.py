"""Make docs/results/cifar10.md and its picture from the rows, the plan and the notes.

    python benchmarks/cifar10/table.py

No figure is typed by hand but the published ones, which stand with their source in
experiments.toml; what did not work is told in notes.md.
"""

import math
import statistics
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cifar10.plan import FILE, experiments
from cifar10.rows import ROWS, Row, command, made_otherwise, rows
from lorank.atomic import replacing
from record import RESULTS
from sections.markdown import percent, table

PAGE, PICTURE = RESULTS / "cifar10.md", RESULTS / "cifar10.png"
NOTES = Path(__file__).with_name("notes.md")
HEAD = """# ResNets on CIFAR-10 at a budget of MACs

Made by `python benchmarks/cifar10/table.py` from [cifar10.jsonl](cifar10.jsonl), one line a run,
written by `python benchmarks/cifar10/run.py`. Unless it says otherwise, all methods of a table
start from the same published weights, train as long on the same images in the same views under the
same teacher, and are counted by the same counter: MACs of convolutions and linear layers. Accuracy
is that of the last epoch on the 10,000 test images, which are read once a row; what was chosen was
chosen on 5,000 training images held out. The published weights have seen them, so that they judge
fine-tuning and not the start. Settings were tried out for lorank's methods (some fifty trials) and
for plain truncation (three), two rates for PAT, pruning and Tucker-2; the other rivals have the
same schedule and their own defaults.
Intervals are 95 % of Student's t over the seeds; one seed has none. A method that a text names and
its table has not was not run. What a step costs stands with the [other figures](README.md).
"""


def grouped(found: list[Row]) -> dict[str, dict[tuple[str, float, str], list[Row]]]:
    """Suite → (network, budget, method) → its rows, one a seed."""
    suites: dict[str, dict[tuple[str, float, str], list[Row]]] = defaultdict(dict)
    for row in found:
        suite, network, method, budget, _ = row["experiment"].split("/")
        suites[suite].setdefault((network, float(budget), method), []).append(row)
    return suites


def interval(values: list[float]) -> str:
    """Mean in percent, with half the 95 % interval of Student's t where there are seeds.

    Example:
        >>> interval([0.9]), interval([0.90, 0.91, 0.92])
        ('90.00', '91.00 ± 2.48')
    """
    mean = 100 * statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * 100 * statistics.stdev(values)
    return f"{mean:.2f} ± {half / math.sqrt(len(values)):.2f}"


def paired(found: list[Row], other: list[Row]) -> str:
    """Mean difference in points over what both share, with its interval.

    A pair shares its seed, device and precision, and where it began: rows of networks trained here
    differ in that from one processor to the next (it was not recorded at first).

    Example:
        >>> def row(seed, accuracy):
        ...     return {"experiment": f"a/{seed}", "accuracy": accuracy, "device": "CPU"}
        >>> ours = [row(0, 0.91), row(1, 0.92)]
        >>> paired(ours, [row(seed, 0.9) for seed in range(3)])
        '+1.50 ± 6.35'
        >>> paired(ours[:1], ours[1:])
        ''
    """
    before = {pair_of(row): row["accuracy"] for row in other}
    both = [row["accuracy"] - before[p] for row in found if (p := pair_of(row)) in before]
    if not both:
        return ""
    said = interval(both)
    return said if said.startswith("-") else f"+{said}"


def pair_of(row: Row) -> tuple[Any, ...]:
    """What two rows must share to be compared."""
    start = row.get("start") if row.get("base") else None
    return row["experiment"].rpartition("/")[2], row["device"], row.get("precision"), start


def line(key: tuple[str, float, str], found: list[Row], other: list[Row] | None) -> list[str]:
    """One row of a suite's table, with its difference from another one if there is any."""
    network, budget, method = key
    first = found[0]
    return [
        network,
        f"{100 * (budget - 1):.4g} %",
        method,
        interval([row["accuracy"] for row in found]),
        *([] if other is None else ["" if other is found else paired(found, other)]),
        percent(statistics.fmean(row["macs_share"] for row in found), 1),
        percent(statistics.fmean(row["params_share"] for row in found), 1),
        f"{first['epochs']}",
        f"{statistics.fmean(row['minutes'] for row in found):.0f}",
        str(len(found)),
    ]


NAMES, FIGURES = ["network", "asked", "method", "accuracy, %"], ["MACs", "parameters", "epochs"]


def suite_text(name: str, asked: dict[str, Any], groups: dict[Any, list[Row]]) -> str:
    """A suite's sentence, table and commands; in each budget the best row comes first."""

    def place(key: tuple[str, float, str]) -> tuple[str, float, float]:
        return key[0], -key[1], -statistics.fmean(row["accuracy"] for row in groups[key])

    rival = asked.get("against")
    header = [*NAMES, *([] if rival is None else [f"against `{rival}`"]), *FIGURES]
    lines = [
        line(key, groups[key], None if rival is None else groups.get((*key[:2], rival), []))
        for key in sorted(groups, key=place)
    ]
    body = table([*header, "minutes", "seeds"], lines)
    title = f"## {asked.get('title', name)}"
    parts = (title, asked.get("text", "").strip(), body, made_by(name, groups))
    return "\n\n".join(part for part in parts if part) + "\n"


def made_by(name: str, groups: dict[Any, list[Row]]) -> str:
    """Where a suite's rows were made, and how to make them again."""
    every = [row for found in groups.values() for row in found]
    places = "; ".join(dict.fromkeys(map(where, every)))
    commands = dict.fromkeys(command(f"{name}/*", row, again=True) for row in every)
    one = command(f"{name}/NETWORK/METHOD/BUDGET/SEED", every[0], again=True)
    made = " or ".join(f"`{words}`" for words in commands)
    return (
        f"{made} makes all of them ({places}); one row is `{one}`, "
        f"judged on {every[0]['judged_on']}."
    )


def where(row: Row) -> str:
    """On what a row was made.

    Example:
        >>> where({"device": "CPU", "threads": 1, "torch": "2.13.0"})
        'CPU, 1 thread(s), float32, torch 2.13.0'
    """
    precision = row.get("precision", "float32")
    return f"{row['device']}, {row['threads']} thread(s), {precision}, torch {row['torch']}"


def published_text(published: list[Row]) -> str:
    """The rows to beat, as their authors state them."""
    lines = [
        [p["network"], p["method"], f"{p['accuracy']:.2f}", f"−{p['removed']:.1f} %", p["source"]]
        for p in published
    ]
    body = table(["network", "method", "accuracy, %", "MACs", "source"], lines)
    return (
        f"## Published rows\n\nOther training, other counters: not strictly comparable.\n\n{body}\n"
    )


def curve(method: str, row: Row) -> str:
    """What the picture calls a method's points.

    Example:
        >>> curve("plain", {"epochs": 3, "schedule": {"optimizer": {"name": "muon"}}})
        'plain, 3 epochs, muon'
    """
    optimizer = row["schedule"]["optimizer"]["name"]
    return f"{method}, {row['epochs']} epochs" + ("" if optimizer == "sgd" else f", {optimizer}")


def picture(suites: dict[str, Any], published: list[Row], shown: list[str]) -> None:
    """Accuracy against the MACs that are left, ours and the published."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    networks = sorted({k[0] for s in shown for k in suites.get(s, {})})
    figure, axes = plt.subplots(len(networks), 1, figsize=(8, 4.2 * len(networks)), squeeze=False)
    looks = plt.cycler(marker=list("osD^v")) * plt.cycler(color=plt.get_cmap("tab10").colors)
    for axis, network in zip(axes[:, 0], networks, strict=True):
        axis.set_prop_cycle(looks)
        curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for suite in shown:
            for (of, _, method), found in suites.get(suite, {}).items():
                if of == network:
                    share = statistics.fmean(r["macs_share"] for r in found)
                    right = statistics.fmean(r["accuracy"] for r in found)
                    curves[curve(method, found[0])].append((100 * share, 100 * right))
        for method, points in sorted(curves.items()):
            axis.plot(*zip(*sorted(points), strict=True), label=method)
        for p in published:
            if p["network"] == network:
                axis.plot(100 - p["removed"], p["accuracy"], "k+")
                axis.annotate(p["method"], (100 - p["removed"], p["accuracy"]), fontsize=7)
        axis.set(title=network, xlabel="MACs left, %", ylabel="accuracy, %")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    with replacing(PICTURE) as draft:
        figure.savefig(draft, format="png", dpi=120)


def main() -> None:
    plan = tomllib.loads(FILE.read_text())
    found, asked = rows(), {e.name: e for e in experiments()}
    if not found:
        sys.exit(f"{ROWS.name} has no rows yet: run benchmarks/cifar10/run.py first")
    stale = [row["experiment"] for row in found if made_otherwise(row, asked)]
    if stale:
        sys.exit(f"{FILE.name} asks for something else under these names: {', '.join(stale)}")
    suites = grouped(found)
    published = plan.get("published", [])
    texts = [HEAD]
    shown = [name for name, asked in plan["suites"].items() if asked.get("picture")]
    if any(name in suites for name in shown):
        picture(suites, published, shown)
        texts.append(f"![accuracy against MACs]({PICTURE.name})\n")
    for name, asked in plan["suites"].items():
        if name in suites:
            texts.append(suite_text(name, asked, suites[name]))
    texts.append(published_text(published))
    texts.append(NOTES.read_text())
    with replacing(PAGE) as draft:
        draft.write_text("\n".join(texts))
    print(f"wrote {PAGE.name}: {sum(len(g) for g in suites.values())} lines")


if __name__ == "__main__":
    main()
