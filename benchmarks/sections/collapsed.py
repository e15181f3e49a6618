"""The collapsed posterior: on matrices that were made, and as a rank rule for networks."""

from typing import Any

from sections.markdown import Rows, Section, percent, table

MATRICES = """Error is ‖M̂ − M‖²/‖M‖² (where M is 0: over ‖Y‖²), averaged over the runs; in brackets
the share of runs whose rank is the true one. σ = 1. Much of the gain where σ is unknown is the
noise level: with σ told to all, the methods are closer."""


def matrices(figures: dict[str, Any]) -> str:
    made = [MATRICES]
    for known, title in ((False, "The noise is unknown."), (True, "The noise is known to all.")):
        here = [f for f in figures["matrices"] if f["noise_known"] is known]
        cases = list(dict.fromkeys(f["case"] for f in here))
        about = {f["case"]: f for f in here}
        header = ["method"]
        for case in cases:
            f = about[case]
            header.append(f"{case}: {'×'.join(map(str, f['shape']))}, rank {f['true_rank']}")
        weakest = ["weakest, in edges", *(str(about[c]["weakest_in_edges"] or "") for c in cases)]
        found = {(f["method"], f["case"]): f for f in here}
        rows = [
            [method, *(_cell(found.get((method, case))) for case in cases)]
            for method in dict.fromkeys(f["method"] for f in here)
        ]
        made += [title, table(header, [weakest, *rows])]
    return "\n\n".join([*made, _targets(figures["targets"]), *_size(figures["size"])])


def _cell(f: dict[str, Any] | None) -> str:
    return f"{f['error']:.4f} ({percent(f['right'], 0)})" if f else ""


def _targets(found: dict[str, Any]) -> str:
    rows = [
        [method, percent(found["change_of_mean_error"][method], 1)]
        + [f"{case} {percent(change, 1)}" for case, change in _ends(cases)]
        for method, cases in found["change_of_error"].items()
    ]
    header = ["CSP's error against", "mean", "least gain", "largest gain"]
    seen = found["right_above_1.3_edges"]
    ranks = ", ".join(f"{case} {percent(share, 0)}" for case, share in seen.items())
    zeros = ", ".join(f"{c} {percent(share, 0)}" for c, share in found["rank_0_on_noise"].items())
    return (
        f"{table(header, rows)}\n\nThe noise unknown, every signal above 1.3 edges: the rank is "
        f"right in {percent(found['right_above_1.3_edges_all'], 0)} of runs ({ranks}). Noise alone "
        f"has rank 0: {zeros}."
    )


def _ends(cases: dict[str, float]) -> list[tuple[str, float]]:
    order = sorted(cases.items(), key=lambda item: -item[1])
    return [order[0], order[-1]]


def _size(rows: Rows) -> list[str]:
    if not rows:
        return []
    cells = [
        [
            f["matrix"],
            str(f["rank"]),
            f"{f['svd_seconds']:.2f} s",
            f"{f['csp_seconds']:.2f} s",
            f"{f['csp_over_svd']:.2f} ×",
        ]
        for f in rows
    ]
    return [table(["matrix", "rank found", "SVD, CPU", "CSP, CPU", "CSP over SVD"], cells)]


NETWORKS = """Ranks of a statistical rule are all multiplied by one factor, so that the network fits
the budget; factor 1 is the rule as it stands. BatchNorm is estimated anew, on images as they
are. A statistical rank is a lower bound for these networks, and no good way to spend a budget."""

UPDATES = """One layer of a small network, 256×256: W after training, W₀ its random start. Test
accuracy, averaged over the seeds, with W cut at its statistical rank (σ that of W₀, and σ
inferred), and with the update cut instead."""


def networks(figures: dict[str, Any]) -> str:
    dense = {f["model"]: f["accuracy"] for f in figures["networks"] if f["rule"] == "dense"}
    rows = [
        [
            f"{f['model']} ({percent(dense[f['model']])})",
            f["rule"],
            "as it stands" if f["asked"] is None else percent(f["asked"], 0),
            "" if f["factor"] is None else f"{f['factor']:.2f}",
            percent(f["macs"], 1),
            percent(f["accuracy"]),
        ]
        for f in figures["networks"]
        if f["rule"] != "dense"
    ]
    header = ["network (dense)", "rule", "budget", "factor", "MACs", "accuracy"]
    return "\n\n".join([NETWORKS, table(header, rows), UPDATES, _updates(figures["updates"])])


WORDS = {
    "rank_of_weight": "rank of W, σ of the start",
    "rank_of_weight_noise_inferred": "rank of W, σ inferred",
    "rank_of_update": "rank of W − W₀",
    "dense": "accuracy, whole",
    "without_training": "accuracy, W₀ in this layer",
    "weight_cut_half_the_rank": "W cut, half the rank",
    "weight_cut_noise_inferred": "W cut, σ inferred",
    "weight_cut": "W cut, σ of the start",
    "weight_cut_twice_the_rank": "W cut, twice the rank",
    "start_and_update_cut": "W₀ and the update cut at its rank",
    "start_and_update_cut_to_the_weight_s_rank": "W₀ and the update cut at W's rank",
}


def _updates(rows: Rows) -> str:
    def write(key: str) -> str:
        mean = sum(f[key] for f in rows) / len(rows)
        return f"{mean:.1f}" if key.startswith("rank") else percent(mean)

    return table(["", "mean"], [[word, write(key)] for key, word in WORDS.items()])


SECTIONS: list[Section] = [
    ("bayes", "Bayesian singular values against their peers", matrices),
    ("bayes_networks", "Statistical ranks on networks", networks),
]
