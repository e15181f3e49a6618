"""Draw the picture of the README from a run of the demo: python benchmarks/demo_picture.py RUN."""

import sys
from pathlib import Path

import matplotlib as mpl

import lorank
from lorank.report import relative
from lorank.report.pictures import Epoch, Spread, draw_run
from lorank.training.log import read_log
from lorank.zoo import load_model

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "digits.svg"


def main(run: Path) -> None:
    net = load_model("resnet8", in_channels=1, classes=10)
    low, dense = (lorank.load(run / f"{n}.safetensors", net) for n in ("svd", "dense"))
    after = lorank.measure(low)
    layouts = {name: layer.layout for name, layer in after.items()}
    before = lorank.measure(dense, layout=layouts)
    events = read_log(run)
    epochs = [
        Epoch(e["stage"], e["accuracy"], sum(e["ranks"].values()))
        for e in events
        if e["event"] == "epoch"
    ]
    end = events[-1]
    layers = {
        name: Spread(relative(before[name]), relative(layer), end["ranks"][name])
        for name, layer in after.items()
    }
    share = end["cost"]["macs"] / end["dense_cost"]["macs"]
    title = (
        f"ResNet-8 on digits: dense {end['dense_accuracy']:.1%}, "
        f"low-rank {end['accuracy']:.1%} at {share:.1%} of the MACs"
    )
    mpl.rcParams["svg.hashsalt"] = "lorank"  # the same run gives the same file
    draw_run(PICTURE, epochs, layers, title=title)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
