"""Shared by user journeys: the command line, run in this process."""

import signal
import sys

import pytest

from diffusionpose import cli


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process; return exit code, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["diffusionpose", *map(str, arguments)])
        monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return call
