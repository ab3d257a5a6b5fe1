"""What is asked of a refusal: one sentence that says what is wrong, and nothing left behind."""

import re

from click.testing import CliRunner
from soak import files_in

from sysvi.cli import main


def check_refusal(folder, command, words, before):
    """Run a command in `folder`; it must fail in one sentence with these words and leave the files as they were."""
    result = CliRunner().invoke(main, command.split(), standalone_mode=True)
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit), result.exception
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.output
    assert result.stderr.endswith(f"{errors[0]}\n")
    assert "Traceback" not in result.output
    assert re.search(words, errors[0]), errors[0]
    assert len(errors[0]) < 700
    assert files_in(folder) == before


def check_sentence(error):
    message = str(error)
    assert "\n" not in message
    assert message.endswith((".", ")"))
    assert len(message) < 900
