"""A slice found on spines that were made."""

import statistics
from typing import Any

from sections.markdown import Section, percent, table

NETWORKS = """No patient's data: columns that were made (`lorank.localization.synthetic`), slices of
1 mm, each seed with training, validation and test columns of its own. Mean error in slices over the
test columns, mean of the seeds. In the confused curves a quarter of the windows, the same for every
row of the table, points to the vertebra above or below. `line` is the decision that is used,
`line_raw` the published one without its second step; the votes are each window's `row + offset`."""

DECODER = """The decisions alone, on curves that were simulated: noise of 8 rows, a quarter of the
windows moved by 35 rows, arbitrary offsets beyond 60 rows from the target. Mean error in rows. Who
knew the 91 windows in 121 that were not moved, and took the mean of their votes, would be off by
8·√(2/91π) = 0.67 rows with a window in every row; `line_raw` comes below that because these curves
end where its line ends, which curves of networks do not."""

KINDS = ("plain", "plain, every 6th", "confused")
WORDS = {"plain": "every row", "plain, every 6th": "every 6th row", "confused": "confused"}


def finder(figures: dict[str, Any]) -> str:
    made = [NETWORKS, _networks(figures), DECODER, _decoder(figures), _targets(figures)]
    return "\n\n".join(made)


def _networks(figures: dict[str, Any]) -> str:
    runs = figures["networks"]
    header = ["decision"] + [f"{m}, {WORDS[k]}" for k in KINDS for m in ("dense", "half the MACs")]
    rows = []
    for rule in runs[0]["half"]["plain"]:
        cells = [
            statistics.fmean(run[model][kind][rule]["figures"]["mean"] for run in runs)
            for kind in KINDS
            for model in ("dense", "half")
        ]
        rows.append([rule, *(f"{cell:.2f}" for cell in cells)])
    return table(header, rows)


def _decoder(figures: dict[str, Any]) -> str:
    found = figures["decoder"]
    rules = list(next(iter(found.values())))
    rows = [[rule, *(f"{found[step][rule]['mean']:.2f}" for step in found)] for rule in rules]
    return table(["decision", *(f"a window {step} row(s)" for step in found)], rows)


def _targets(figures: dict[str, Any]) -> str:
    goals, runs = figures["goals"], figures["networks"]
    tests = [e for r in runs for e in r["half"]["plain"]["line"]["errors"]]
    beyond = sum(abs(e) > 10 for e in tests) / len(tests)
    trust = [r["confidence"] for r in runs]
    votes = goals["votes_over_line_on_networks"]
    alone = goals["votes_over_line_simulated"]
    seconds = figures["time"]
    return "\n".join(
        [
            f"- {len(runs)} seeds, {len(tests)} test columns, {percent(beyond, 1)} of them off by "
            f"more than 10 slices; with confusion {goals['error_confused']:.2f} slices.",
            f"- At {percent(statistics.fmean(goals['macs']), 1)} of the MACs the error changes by "
            f"{goals['loss_at_half_the_macs']:+.3f} slices "
            f"({', '.join(f'{x:+.3f}' for x in goals['losses'])}).",
            "- Error of the votes over that of `line`, on confused networks / simulated: "
            + ", ".join(f"{v} {votes[v]:.2f} / {alone[v]:.2f}" for v in votes)
            + ".",
            f"- Confidence: mean {percent(statistics.fmean(t['mean'] for t in trust), 1)}, right "
            f"within 10 mm {percent(statistics.fmean(t['right'] for t in trust), 1)}.",
            "- A scan of 600 × 512 × 512 in memory, to its slice: "
            + ", ".join(f"{k} {v['wall']:.2f} s (CPU {v['cpu']:.2f} s)" for k, v in seconds.items())
            + ".",
        ]
    )


SECTIONS: list[Section] = [("localization", "A slice in a scan, on made spines", finder)]
