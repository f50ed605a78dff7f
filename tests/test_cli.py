"""What ends a script, as a status and at most one sentence."""

import pytest

from emojitune.artifacts import UserError
from emojitune.command_line import exit_status


def ends_with(error, behind=None):
    def main(argv):
        try:
            if behind:
                raise behind
        finally:
            raise error

    return exit_status(main)


@pytest.mark.parametrize(("signal", "status"), [(KeyboardInterrupt(), 130), (KeyboardInterrupt("SIGTERM"), 143)])
def test_an_interrupt_is_one_even_when_a_library_fails_at_cleaning_up(signal, status, capsys):
    """datasets closes its writer on an interrupt and then writes to it: Ctrl+C while tokenizing gave a traceback."""
    assert ends_with(signal) == status
    for error in (ValueError("I/O operation on closed file"), OSError("closed"), UserError("no")):
        assert ends_with(error, behind=signal) == status
    assert capsys.readouterr().err.strip() == ""


def test_what_the_user_can_mend_is_a_sentence_and_a_bug_is_not_hidden(capsys):
    assert ends_with(UserError("name it")) == 2
    assert capsys.readouterr().err == "error: name it\n"
    assert ends_with(MemoryError()) == 2
    assert "--batch-size" in capsys.readouterr().err
    with pytest.raises(ValueError, match="bug"):
        ends_with(ValueError("bug"))
