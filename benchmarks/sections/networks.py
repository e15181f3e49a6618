"""Whole networks: compressed, trained, timed."""

from typing import Any

from sections.markdown import Rows, Section, percent, table


def demo(figures: Rows) -> str:
    rows = [
        [
            str(f["seed"]),
            percent(f["dense_accuracy"]),
            percent(f["accuracy"]),
            percent(f["macs"], 1),
            percent(f["params"], 1),
            f"{f['seconds']:.0f} s",
        ]
        for f in figures
    ]
    return table(["seed", "dense", "low-rank", "MACs", "parameters", "whole command"], rows)


def step_time(figures: Rows) -> str:
    rows = [[f["layout"], f["model"], f"{f['ms']:.0f} ms", f"{f['ratio']:.2f} ×"] for f in figures]
    return table(["layout", "model", "a step", "against dense"], rows)


def cost(figures: Rows) -> str:
    rows = [
        [
            f["network"],
            f["form"],
            f"{f['ms']:.0f} ms",
            f"{f['ratio']:.2f} × ({f['ratio_quartiles'][0]:.2f} to {f['ratio_quartiles'][1]:.2f})",
            f"{f['mib']:.0f} MiB",
            f"{f['memory_ratio']:.2f} ×",
        ]
        for f in figures
    ]
    header = ["network", "form, at its share of the MACs", "a step", "against dense (quartiles)"]
    return f"{COST}\n\n{table([*header, 'memory', 'against dense'], rows)}"


COST = """Each step has its penalties (SVD form and two convolutions: orthogonality and Hoyer; TRP:
the nuclear norm, and a truncation every 20 steps), backward pass and SGD. Two convolutions are the
published form of SVD training; plain pairs are what a folded network trains in. Memory is that of
parameters, gradients, momenta and what is kept for the backward pass; on a GPU the peak."""


def decompose(figures: Rows) -> str:
    rows = [
        [f["task"], f["layout"], f"{f['seconds']:.1f} s", f"{f['peak_over_weights']:.2f} ×"]
        for f in figures
    ]
    return table(["task", "layout", "time", "peak memory over the weights"], rows)


def cut(figures: Rows) -> str:
    dense = {f["model"]: f["accuracy"] for f in figures if f["rule"] == "dense"}
    rows = [
        [
            f"{f['model']} ({percent(dense[f['model']])})",
            f["layout"],
            f["rule"],
            percent(f["macs"], 1),
            percent(f["params"], 1),
            percent(f["accuracy"]),
            percent(f["accuracy_recalibrated"]),
            percent(f["accuracy_augmented"]),
        ]
        for f in figures
        if f["rule"] != "dense"
    ]
    header = ["network (dense)", "layout", "rule", "MACs", "parameters", "accuracy"]
    return table([*header, "BatchNorm re-estimated", "on augmented images"], rows)


CUT_BY = {"weights": "weights, weights", "ranks": "data, weights", "data": "data, data"}


def trained(figures: Rows) -> str:
    rows = [
        [
            f["model"],
            f"{f['sparsify']} + {f['finetune']}",
            CUT_BY[f["cut_by"]],
            percent(f["dense_accuracy"]),
            percent(f["accuracy"]),
            percent(f["macs"], 1),
            percent(f["params"], 1),
            f"{f['minutes']:.0f}",
        ]
        for f in figures
    ]
    header = [
        "network",
        "epochs before + after the cut",
        "ranks, factors by",
        "dense",
        "low-rank",
        "MACs",
        "parameters",
        "minutes",
    ]
    return table(header, rows)


def posttraining(figures: Rows) -> str:
    rows = [
        [
            *f["experiment"].split("/"),
            str(f["seed"]),
            percent(f["macs"], 1),
            percent(f.get("linear", f["params"]), 1),
            scores(f["scores"]),
            scores(f.get("scores_recalibrated", {})),
            evaluations(f),
            f"{f['seconds']:.0f} s",
        ]
        for f in figures
    ]
    header = ["network", "method", "budget", "seed", "MACs", "parameters", "score"]
    made = table([*header, "BatchNorm re-estimated", "evaluations", "time"], rows)
    return f"{POSTTRAINING}\n\n{made}"


POSTTRAINING = """No training, and no labels where it does not say so. Calibration data are 2,000
training images (ResNets), the 500 images of the even classes (MobileNetV2, judged on the odd ones;
one image a class, for comparison only), 256 synthetic tones (CREPE, judged on 256 others), and 750
sentences (MiniLM: of the STS dev part, or lines of WikiText-2; judged on STS test sentences by
their cosine to the dense embeddings, and by Spearman's correlation with people's scores). ResNets
are judged on all 10,000 test images. BatchNorm is re-estimated on the calibration data as they are;
images augmented as in training give cuts that are not by data more (the table above). Parameters
are the whole network's, but for MiniLM the weights of the encoder's linear layers, which its budget
counts. Evaluations are forward passes over so many samples that serve to choose ranks; the time, on
a machine shared with others, is that of choosing and cutting. ASVD and SVD-LLM are written anew
from their papers, AIMET is release 2.42 itself."""


def scores(found: dict[str, float]) -> str:
    shares = ("accuracy", "pitch")
    return ", ".join(f"{n} {percent(v) if n in shares else f'{v:.4f}'}" for n, v in found.items())


def evaluations(figure: dict[str, Any]) -> str:
    if not figure.get("evaluations"):
        return "0"
    labels = " with labels" if figure.get("labels") else ""
    return f"{figure['evaluations']} × {figure['samples_per_evaluation']}{labels}"


def latency_budget(figures: Rows) -> str:
    rows = [
        [
            f["network"],
            str(f["batch"]),
            str(f["threads"]),
            f"{f['asked']:.2f}",
            *(
                ["", f"refused before the cut: {f['refused']}", "", "", ""]
                if "refused" in f
                else [
                    f"{f['predicted']:.2f}",
                    f"**{f['measured']:.2f}**",
                    f"{f['dense_ms']:.1f} → {f['cut_ms']:.1f} ms",
                    percent(f["macs"], 1),
                    f"{len(f['cut'])} of {f['layers']}",
                ]
            ),
        ]
        for f in figures
    ]
    header = ["network", "batch", "threads", "asked", "by the table of layers", "measured"]
    return table([*header, "time", "MACs", "layers cut"], rows)


SECTIONS: list[Section] = [
    ("demo_digits", "The demo: ResNet-8 on digits, dense training included", demo),
    ("step_time", "A training step in SVD form, ResNet-20, batch 128", step_time),
    ("cifar10_cost", "A training step: SVD form, dense, two convolutions, TRP; batch 128", cost),
    ("decompose_resnet50", "Decomposing a network of ResNet-50's size", decompose),
    ("pretrained_cut", "Pretrained CIFAR-10 networks, cut without training", cut),
    (
        "posttraining",
        "Pretrained networks compressed without training: lorank and others",
        posttraining,
    ),
    ("latency_budget", "A share of the dense time, asked and measured", latency_budget),
    ("pretrained_train", "Pretrained CIFAR-10 networks, after a short training", trained),
]
