"""The command `graphopt`: its subcommands, and how errors leave it."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Any

import typer

from graphopt.cli import compare, inspect, optimize, passes
from graphopt.errors import GraphoptError, PipelineError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in a shell."""

app = typer.Typer(
    name="graphopt",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Finds the skip connections of an ONNX model, knows what each one costs, and removes "
    "those that are worth it, exactly, with evidence.",
)


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (anywhere on the line).")
    ] = False,
) -> None:
    """Options of every subcommand; `main` looks for --debug itself."""


app.command()(optimize.optimize)
app.command()(inspect.inspect)
app.command()(compare.compare)
app.command()(passes.passes)


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Bad input: one sentence and exit code 2; over budget or not equivalent: 1."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    try:
        _add_plugin_commands(given)
        app(args=given, prog_name="graphopt")
    except GraphoptError as error:
        _leave(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        _leave("stopped", INTERRUPTED, debug)
    except SystemExit as left:
        if left.code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt, without a word
            _leave("stopped", INTERRUPTED, debug)
        raise
    except Exception as error:
        sentence = " ".join(str(error).split()) or "no message"
        _leave(
            f"internal error ({type(error).__name__}: {sentence}); run it again with --debug and "
            "report what that shows.",
            3,
            debug,
        )


def _add_plugin_commands(arguments: list[str]) -> None:
    """Adds the subcommands of plug-ins. A broken plug-in must not take the others down."""
    from graphopt import plugins

    own = {command.callback.__name__ for command in app.registered_commands if command.callback}
    for name, plugin in plugins.commands().items():
        if name in own:
            continue
        try:
            app.command(name)(_function(name, plugin.load()))
        except GraphoptError as error:
            if name == next((word for word in arguments if not word.startswith("-")), None):
                raise
            print(f"graphopt: {error}", file=sys.stderr)


def _function(name: str, loaded: Any) -> Any:
    """`loaded`, if typer can make a subcommand of it; it looks only when all of them are there.

    Raises:
        PipelineError: it cannot.
    """
    alone = typer.Typer()
    try:
        alone.command(name)(loaded)
        typer.main.get_command(alone)
    except Exception as error:
        text = " ".join(str(error).split())
        raise PipelineError(
            f"the plug-in '{name}' is no subcommand ({type(error).__name__}: {text}): install its "
            "package again, or remove it."
        ) from error
    return loaded


def _leave(sentence: str, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(f"graphopt: {sentence}", file=sys.stderr)
    sys.exit(code)
