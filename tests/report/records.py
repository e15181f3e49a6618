"""Records for tests of the page: from a small one to one of two hundred layers."""

import math

from lorank.report.record import Cut, Epoch, Figures, Layer, Record, Skipped, Timing

NASTY = "</script></style><script>window.harmed = 1</script><img src=x onerror='harm()'>\"&"
"""What a hostile file could hold in place of a name."""


def layer(number: int, size: int = 64, name: str | None = None, **changes) -> Layer:
    rank = 3 + (7 * number) % (size // 2)
    facts = {
        "layer": f"layer{number}.conv" if name is None else name,
        "full_rank": size,
        "rank": rank,
        "kind": "Conv2d 3×3",
        "layout": "spatial",
        "matrix": (size, 3 * size),
        "energy": 1 - 0.5**number,
        "params": 100 * size,
        "params_kept": 60 * rank,
        "macs": 5000 * size,
        "macs_kept": 2000 * rank,
        "before": [math.exp(-6 * i / size) for i in range(size)],
    }
    return Layer(**facts | changes)


def small() -> Record:
    """Everything that a record can have, in a few layers."""
    layers = [layer(n) for n in (5, 1, 4, 2, 3)]
    layers += [
        layer(6, name="head", rank=64, energy=1.0, stays_dense="full rank was chosen", macs=None),
        layer(7, name="depthwise", groups=32, after=[1.0, 0.4, 0.1]),
    ]
    terms = [{"loss": 2 / n, "sparsity": 0.5 / n} for n in range(1, 7)]
    terms[3] = {"loss": None, "sparsity": 0.1}
    epochs = [
        Epoch("dense" if n < 3 else "sparsify", terms[n], 0.5 + n / 20, 1.5, 40 - n, 90 - n)
        for n in range(6)
    ]
    return Record(
        title="small",
        kind="train",
        names=("dense", "low-rank"),
        facts={"model": "resnet8", "data": "digits"},
        asked="35 % of the MACs",
        before=Figures(0.98, 100, 200, 800, 900, 0.002),
        after=Figures(0.97, 35, 90, 360, 400, 0.001),
        layers=layers,
        skipped=[Skipped("norm", "has no SVD form", "BatchNorm2d", 12)],
        epochs=epochs,
        cuts=[Cut(4), Cut(6, "sparsify", 35, 90)],
        timings=[
            Timing("dense", 0.002, 0.003, engine="eager"),
            Timing("low-rank", 0.001, relative_error=0.125),
        ],
        timed_on={"device": "cpu"},
        command="lorank train resnet8 --data digits --out runs/digits",
        versions={"lorank": "0.1.0"},
        seed=0,
        recipe={"batch_size": 64},
        notes=["A note."],
    )


def hostile() -> Record:
    """The same text, that would do harm, wherever text can be."""
    text = {NASTY: NASTY}
    return Record(
        title=NASTY,
        kind="train",
        names=(NASTY, NASTY),
        facts=text,
        asked=NASTY,
        before=Figures(0.9),
        after=Figures(0.8),
        layers=[
            layer(1, name=NASTY, kind=NASTY, layout=NASTY),
            layer(2, stays_dense=NASTY, rank=64),
        ],
        skipped=[Skipped(NASTY, NASTY, NASTY, 1)],
        epochs=[Epoch(NASTY, {NASTY: 1.0, "loss": 2.0}, 0.5), Epoch("b", {NASTY: 2.0})],
        timings=[Timing(NASTY, 1.0)],
        timed_on=text,
        command=NASTY,
        versions=text,
        recipe=text,
        notes=[NASTY],
    )


def large(count: int = 200) -> Record:
    """As large as they come: many layers of high rank, and many epochs."""
    names = ("loss", "task", "distillation", "orthogonality", "sparsity")
    return Record(
        title="large",
        kind="train",
        layers=[layer(n, 1024, after=[1.0] * 400) for n in range(count)],
        epochs=[Epoch("a", dict.fromkeys(names, 1 / n), 0.5, 1.0, 9) for n in range(1, 301)],
    )
