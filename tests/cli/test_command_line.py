import contextlib
import inspect
import io
import re
import shlex
import subprocess
import sys

import pytest
import typer

import lorank as library
from lorank.cli.app import COMMANDS, app, main
from lorank.cli.faults import exit_code
from lorank.errors import LorankError
from lorank.training.presets import PRESETS
from lorank.training.recipe import Recipe

GROUP = typer.main.get_command(app)
NAMES = [command.__name__ for command in COMMANDS]
INPUT_OPTIONS = {"--weights", "--data", "--root", "--json", "--option"}
WITHOUT_A_MODEL = {"report", "structured"}
"""A report reads a run; structured outputs are compared on a network of the command's own."""


def examples(text):
    return [line.strip() for line in text.splitlines() if line.strip().startswith("lorank ")]


def parsed(line):
    """Parse a line as the command line would, without running it."""
    words = shlex.split(line)[1:]
    context = GROUP.make_context("lorank", list(words))
    command = GROUP
    while hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context, list(words))
        context = command.make_context(name, list(words), parent=context)
        words = context._protected_args + context.args
    return context


def test_help_shows_the_flow(lorank):
    shown = lorank("--help").out
    assert "measure, choose, apply" in shown
    for name in NAMES:
        assert re.search(rf"^  {name} ", shown, re.M)
    assert [line.split()[1] for line in examples(shown)] == NAMES
    assert lorank().out == shown == lorank("-h").out


@pytest.mark.parametrize("name", NAMES)
def test_help_teaches(lorank, name):
    shown = lorank(name, "--help").out
    command = GROUP.commands[name]
    assert 2 <= len(examples(shown)) <= 4
    assert all(line.split()[1] == name for line in examples(shown))
    assert "\x1b" not in shown and "\b" not in shown
    for parameter in command.params:
        assert parameter.help, parameter.name
        if parameter.param_type_name == "option":
            assert parameter.opts[0] in shown
    options = {flag for p in command.params for flag in p.opts}
    assert name in WITHOUT_A_MODEL or options >= INPUT_OPTIONS


@pytest.mark.parametrize(
    "line",
    examples(GROUP.help) + [line for name in NAMES for line in examples(GROUP.commands[name].help)],
)
def test_every_example_can_be_typed(line):
    assert parsed(line).params


def test_an_example_with_a_wrong_option_is_found():
    with pytest.raises(Exception, match="No such option"):
        parsed("lorank bench a b --speed")


def test_help_fits_a_narrow_terminal(lorank):
    for name in NAMES:
        shown = lorank(name, "--help").out
        prose = [line for line in shown.splitlines() if not line.strip().startswith("lorank ")]
        assert max(map(len, prose)) <= 80
        assert max(map(len, examples(shown))) <= 96


def test_version(lorank):
    assert lorank("--version").out == f"lorank {library.__version__}\n"


def test_the_module_runs_like_the_script():
    done = subprocess.run(
        [sys.executable, "-m", "lorank", "inspect", "nothing"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: unknown model 'nothing'")


def test_the_script_is_the_main_function():
    assert inspect.signature(main).parameters["arguments"].default is None


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("inspct",), "no such command 'inspct'. Did you mean 'inspect'? (see lorank --help)"),
        (("inspect",), "missing argument 'MODEL' (see lorank inspect --help)"),
        (("bench", "mlp", "--repeats", "0"), "invalid value for '--repeats'"),
        (("inspect", "mlp", "--tall"), "no such option: --tall"),
        (("inspect", "resnet9"), "unknown model 'resnet9': did you mean 'resnet8'?"),
        (("inspect", "mlp", "--layout", "chanel"), "unknown layout 'chanel': did you mean"),
        (("inspect", "mlp", "--energy", "1.5"), "keep is a share of the energy in (0, 1]"),
        (("inspect", "mlp", "--skip", "fc"), "unknown layer 'fc'"),
        (("inspect", "mlp", "--data", "digts"), "unknown data set 'digts': did you mean 'digits'"),
        (("inspect", "mlp", "--root", "."), "--root says where the folder of --data begins"),
        (("inspect", "mlp", "--input", "3,x"), "--input is the size of one input"),
        (("inspect", "mlp", "--input", "3,0"), "--input is the size of one input"),
        (("inspect", "mlp", "--input", "8:text"), "--input is the size of one input"),
        (("inspect", "mlp", "--input", "7"), "the model must run on the example"),
        (("inspect", "mlp", "--option", "width"), "an option of the model is KEY=VALUE"),
        (("inspect", "mlp", "--option", "wide=3"), "unknown option of the model 'mlp' 'wide'"),
        (("inspect", "mlp", "--model", "vgg"), "--model is for files, and 'mlp' names a model"),
        (("inspect", "mlp", "--weights", "no.pt"), "there is no weights file no.pt"),
        (("inspect", "no/such/run"), "there is no model file or run folder no/such/run"),
        (("inspect", "no.safetensors"), "there is no model file or run folder no.safetensors"),
        (("inspect", "no_module:net"), "there is no module 'no_module'"),
        (("inspect", "mlp", "--data", "cifar10:no/folder"), "cifar10: there is no folder"),
        (("bench", "mlp", "--device", "moon"), "there is no device 'moon' to run on"),
        (("export", "mlp", "net.pt"), "the file to write must end in .onnx or .pt2, found net.pt"),
        (("export", "mlp", "no/net.onnx"), "a file is written into a folder that exists"),
    ],
)
def test_one_error_style(refused, typed, said):
    assert refused(*typed).startswith(said)


@pytest.mark.parametrize(
    ("typed", "package"),
    [(("inspect", "timm:resnet18"), "timm"), (("inspect", "hf:some/net"), "transformers")],
)
def test_a_missing_extra_says_how_to_install_it(refused, monkeypatch, typed, package):
    monkeypatch.setitem(sys.modules, package, None)
    said = refused(*typed)
    assert said.startswith(f"this needs the package {package!r}, which is not installed: pip")


def raising(error):
    def call():
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (LorankError("a rule\n  and what was found"), 2, "error: a rule and what was found\n"),
        (FileNotFoundError(2, "No such file", "x.bin"), 2, "error: x.bin: No such file\n"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (typer.Abort(), 130, "interrupted\n"),
        (typer.BadParameter("no"), 2, "error: invalid value: no\n"),
    ],
)
def test_exit_codes(capsys, error, code, said):
    assert exit_code(raising(error)) == code
    assert capsys.readouterr() == ("", said)


def test_the_unexpected_is_one_line_with_a_hint(capsys, monkeypatch):
    monkeypatch.delenv("LORANK_TRACEBACK", raising=False)
    assert exit_code(raising(ZeroDivisionError("by zero"))) == 1
    said = capsys.readouterr().err
    assert said == (
        "error: unexpected ZeroDivisionError in test_command_line.py: by zero; "
        "LORANK_TRACEBACK=1 shows where\n"
    )


def test_the_traceback_can_be_seen(capsys, monkeypatch):
    monkeypatch.setenv("LORANK_TRACEBACK", "1")
    assert exit_code(raising(LorankError("no"))) == 2
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and said.endswith("error: no\n")


def test_a_closed_pipe_is_no_disaster():
    code = f"{sys.executable} -m lorank inspect mlp --json | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", code], capture_output=True, text=True)
    assert "Traceback" not in done.stderr and done.stdout == "{"


def test_an_ascii_terminal_is_no_disaster():
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with contextlib.redirect_stdout(stdout):
        assert main(["inspect", "mlp", "--spectrum"]) == 0
    stdout.flush()
    assert b"256?784" in stdout.buffer.getvalue()


def test_the_recipes_have_options_for_what_they_take():
    train = GROUP.commands["train"]
    flags = {p.name for p in train.params}
    assert {"epochs", "dense_epochs", "macs", "params", "energy", "sparsity"} <= flags
    taken = set().union(*(inspect.signature(p).parameters for p in PRESETS.values()))
    left = taken - flags
    # What has no option of its own is reached by --set, where it is a field of the recipe.
    assert left <= {"orthogonality", "kind", "lr", "dense_lr", "distill", "layout"}
    assert "layout" in Recipe.model_fields
