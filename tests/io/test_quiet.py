"""Libraries are quiet for as long as any thread reads, and speak again afterwards."""

import logging
import threading
import warnings

import pytest

from medpanoptic.io.quiet import quiet


def speak():
    logging.getLogger("pydicom").error("Secret")
    logging.getLogger("pydicom.late").error("Secret")
    warnings.warn("Secret", stacklevel=1)


def test_threads_that_overlap(caplog):
    """The first to start ends first: the second must stay quiet, and everything must be as it was after both."""
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def second():
        first_in.wait(10)
        with quiet("pydicom"):
            second_in.set()
            first_out.wait(10)
            speak()

    level, filters = logging.getLogger("pydicom").level, list(warnings.filters)
    thread = threading.Thread(target=second)
    thread.start()
    with warnings.catch_warnings(record=True) as seen:
        with quiet("pydicom"):
            first_in.set()
            assert second_in.wait(10)
        first_out.set()
        thread.join(10)
    assert (caplog.text, seen) == ("", [])
    assert (logging.getLogger("pydicom").level, list(warnings.filters)) == (level, filters)
    with pytest.warns(UserWarning, match="Secret"):
        speak()
    assert caplog.text.count("Secret") == 2


def test_one_inside_the_other(caplog):
    with quiet("pydicom"):
        with quiet("pydicom", "highdicom"):
            speak()
        speak()
        logging.getLogger("highdicom").error("heard")
    assert "Secret" not in caplog.text
    assert "heard" in caplog.text
