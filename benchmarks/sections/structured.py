"""Structured outputs: reconstruction tasks against a scaled output layer."""

from typing import Any

from sections.markdown import Section, percent, table

LANDMARKS = """68 points of a face from 50×50 grey pixels, LFPW, 224 test images (805 of the 811
training images were at hand; 135 of them choose the epoch and the learning rate). CDF is the share
of test images with an error of at most 0.1 of the eyes' distance, AUC the area under the errors'
distribution up to 0.5. Mean ± standard deviation over {seeds} paired seeds; the gain is in AUC
against *sup* of the same labels and seeds, with the number of seeds in which it is positive. A
perceptron with hidden layers {hidden}. The mean shape has AUC {auc} and CDF {cdf}: it checks the
protocol."""

SETTINGS = {
    "published": """**Published setting, compressed to {published_epochs} epochs**: sigmoid and tanh
units, SGD with momentum at a constant rate of {rate}, one update for each task, summed losses and
weight decay in the tasks only. *Rate ×10* is plain supervised training of the same network with ten
times the learning rate.""",
    "published, 25×25": """**Published setting on faces of 25×25**, compressed to
{published_epochs} epochs at a rate of {rate}.""",
    "published, 1025-512-64": """**Published setting in the published network**, hidden layers
1025-512-64, compressed to {published_epochs} epochs at a rate of {rate}; {runs} seeds.""",
    "modern": """**Tuned**: ReLU, AdamW, a cosine, mirrored faces, input dropout; the learning rate
of every arm is the best of {rates}, and beyond where the best lies at an end, by the validation
images of the first seed, and with 100 labels of three seeds. Tasks are mean-scaled and annealed to
0 at half of the training. *Scaled* starts the output layer with the labels' mean and
deviations, along random directions, the labels' principal ones, or those it has; *centred, zero
weights* is the control that starts at the mean label. *More* adds the
images or shapes of HELEN without their partners.""",
}


def landmarks(figures: dict[str, Any]) -> str:
    rows = figures["summary"]
    shape = figures["mean_shape"]
    runs = figures["runs"]
    about = {
        "seeds": max(row["seeds"] for row in rows),
        "hidden": "-".join(map(str, figures["hidden"])),
        "auc": percent(shape["auc"], 1),
        "cdf": percent(shape["cdf"], 1),
        "rates": ", ".join(f"{r:g}" for r in figures["rates"]),
    }
    parts = [LANDMARKS.format(**about)]
    for setting, text in SETTINGS.items():
        mine = [row for row in rows if row["setting"] == setting]
        if not mine:
            continue
        epochs = next(r["epochs"] for r in runs if r["setting"] == setting)
        plain = next(row["rate"] for row in mine if row["arm"] == "sup")
        about["runs"] = mine[0]["seeds"]
        parts.append(text.format(published_epochs=epochs, rate=f"{plain:.3g}", **about))
        parts.append(lines(mine))
    return "\n\n".join(parts)


CHOICE = """100 labels; area under the curve on the validation images, mean ± standard deviation
over the seeds, each at the learning rate of the best mean (in brackets). No test image is read."""


def choice(figures: list[dict[str, Any]]) -> str:
    ways = dict.fromkeys((f["mirror"], f["dropped"]) for f in figures)
    rows = []
    for mirror, dropped in ways:
        mine = {f["arm"]: f for f in figures if (f["mirror"], f["dropped"]) == (mirror, dropped)}
        cells = (f"{spread(f['area'])} ({f['rate']:g})" for f in mine.values())
        rows.append(["yes" if mirror else "no", f"{dropped:g}", *cells])
    arms = dict.fromkeys(f["arm"] for f in figures)
    return f"{CHOICE}\n\n{table(['mirror', 'dropout', *arms], rows)}"


def lines(rows: list[dict[str, Any]]) -> str:
    shown = [
        [
            str(row["labels"]),
            row["arm"],
            f"{row['rate']:.2g}",
            spread(row["cdf"]),
            spread(row["auc"]),
            f"{row['nrmse'][0]:.3f}",
            gain(row),
        ]
        for row in sorted(rows, key=lambda row: row["labels"])
    ]
    return table(["labels", "arm", "rate", "CDF", "AUC", "NRMSE", "gain"], shown)


def spread(values: list[float]) -> str:
    return f"{percent(values[0], 1)} ± {100 * values[1]:.1f}"


def gain(row: dict[str, Any]) -> str:
    if row["arm"] == "sup":
        return ""
    mean, deviation = (100 * value for value in row["gain"])
    return f"{mean:+.1f} ± {deviation:.1f} ({row['better']} of {row['seeds']})"


SECTIONS: list[Section] = [
    ("structured", "Reconstruction tasks and a scaled output layer, on landmarks", landmarks),
    ("structured_choice", "Mirrored faces and dropped pixels, chosen by validation", choice),
]
