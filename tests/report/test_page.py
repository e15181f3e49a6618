import base64
import hashlib
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources

import pytest
from records import NASTY, hostile, large, layer, small

from lorank.report.page import GENERATOR, render
from lorank.report.record import Epoch, Figures, Layer, Record

VOID = {"meta", "link", "input", "br", "img"}


class Read(HTMLParser):
    """A page taken apart: tags with attributes, text, and whether every tag is closed."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside != "style":
            (self.scripts if inside == "script" else self.text).append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.mark.parametrize("record", [small(), hostile(), Record("empty", "compress")])
def test_every_tag_is_closed_and_nothing_is_loaded(record):
    page = render(record)
    read = Read(page)
    assert read.wrong == [] and read.open == []
    assert not re.search(r"https?://|//\w+\.\w+/|@import|url\(", page)
    loading = {"src", "href", "srcset", "action", "data", "poster"}
    found = {(t, a[k]) for t, a in read.tags for k in loading & a.keys()}
    assert found <= {("link", "data:,"), ("a", "#main")}


def test_the_policy_allows_the_one_script_that_is_there():
    read = Read(render(small()))
    policy = next(a["content"] for t, a in read.tags if "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(read.scripts[0].encode()).digest()).decode()
    assert len(read.scripts) == 1 and f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert not any(key.startswith("on") for _, a in read.tags for key in a)


def test_names_that_would_do_harm_are_text():
    page = render(hostile())
    read = Read(page)
    assert len(read.scripts) == 1 and "harm" not in read.scripts[0]
    assert not [t for t, _ in read.tags if t == "img"]
    assert next(a["data-layer"] for t, a in read.tags if t == "tr" and "data-layer" in a) == NASTY
    assert read.words.count("<script>window.harmed = 1</script>") > 15
    harmless = render(replace(small(), title="window.harmed"))
    assert len(Read(harmless).tags) > 100  # the reader does see tags


def test_what_a_record_has_is_shown():
    read = Read(render(small()))
    for words in (
        "small",
        "Asked: 35 % of the MACs.",
        "98.00 %",
        "97.00 %",
        "−1.00 points",
        "35.0 % of dense",
        "1 ms",
        "2.00×",
        "eager",
        "0.12",
        "rank 10 of 64",
        "full rank was chosen",
        "Left alone: 1 layer",
        "lorank train resnet8 --data digits --out runs/digits",
        '"batch_size": 64',
        "A note.",
    ):
        assert words in read.words, words
    assert [t for t, _ in read.tags].count("svg") == 5 + 7
    assert ("meta", {"name": "generator", "content": GENERATOR}) in read.tags


def test_what_a_record_lacks_is_left_out():
    read = Read(render(Record("bare", "compress", layers=[layer(1, macs=None, macs_kept=None)])))
    for words in ("Accuracy", "MACs", "Latency", "Training", "Measured", "How it was made", "None"):
        assert words not in read.words, words
    assert "Params left" in read.words
    nothing = Read(render(Record("nothing", "train", ended=False)))
    assert "not ended" in nothing.words and "Layers" not in nothing.words


def test_a_figure_of_one_network_is_no_comparison():
    read = Read(render(Record("a", "train", before=Figures(accuracy=0.5, macs=10))))
    assert "50.00 %" in read.words and "points" not in read.words and " of " not in read.words


def test_layers_without_a_choice_have_no_cut():
    read = Read(render(Record("a", "train", layers=[Layer("fc", 3, before=[3.0, 2.0, 1.0])])))
    assert "3 values, nothing chosen" in read.words
    assert not [a for t, a in read.tags if a.get("class") in ("cut", "kept")]


def test_groups_are_told_where_there_are_any():
    assert "Groups" in Read(render(small())).words
    assert "Groups" not in Read(render(Record("a", "train", layers=[layer(1)]))).words


def test_losses_that_are_no_numbers():
    epochs = [Epoch("a", {"loss": None}, 0.1), Epoch("a", {"loss": None}, 0.1)]
    read = Read(render(Record("a", "train", epochs=epochs)))
    assert "no finite values" in read.words and "nan" not in read.words.lower()


@pytest.mark.parametrize("energy", [1 - 1e-9, 0.99997, 0.99993, 0.9994, 1.0])
def test_nearly_all_is_not_all(energy):
    page = render(Record("a", "train", layers=[layer(1, energy=energy)]))
    words = Read(page).words
    assert bool(re.search(r"\b100(\.0+)? %", words.partition("Table")[0])) is (energy == 1)
    assert "99." in words or energy == 1


def test_two_hundred_layers_stay_small_and_quick():
    record = large()
    render(small())  # the first page compiles the template
    began = time.process_time()
    page = render(record)
    assert time.process_time() - began < 5  # measured: well under a second
    assert len(page.encode()) < 3_000_000
    assert page.count("<svg") == 204


def test_a_record_is_plain():
    plain = small().plain()
    assert json.loads(json.dumps(plain, allow_nan=False))["layers"][0]["layer"] == "layer5.conv"


def test_the_templates_travel_with_the_package():
    folder = resources.files("lorank.report").joinpath("templates")
    assert {file.name for file in folder.iterdir()} == {"page.html", "page.css", "page.js"}
