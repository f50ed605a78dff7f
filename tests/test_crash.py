"""Stop every script anywhere, run it again: the artifacts are those of an undisturbed run.

The points: every file that a script opens for writing, renames, makes or removes in its output directory (an audit
hook counts them, and stops the process at the n-th, before it happens), and moments spread over its whole time. At each
point the script is killed, run again and stopped there with SIGINT, again with SIGTERM, and then left to finish.
CRASH_POINTS sets how many points a script gets.
"""

import os
import shutil
import signal
import sys

import pytest
from conftest import STEPS
from running import Runner, artifacts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and signals")

POINTS = int(os.environ.get("CRASH_POINTS", "40"))


@pytest.mark.parametrize("script", STEPS)
def test_stopped_anywhere_and_run_again(script, stages, tmp_path, record_property):
    before, flags = stages[script]
    output = tmp_path / "out"
    runner = Runner(script, [*flags, "--output-dir", output])

    def start_over() -> None:
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(before, output)

    start_over()
    runner.run()  # the server warms up
    start_over()
    status, whole = runner.run(stop_at=None)
    assert status == 0, runner.said
    writes = runner.writes
    expected = artifacts(output)
    assert writes >= 3

    at_writes = range(1, writes + 1, max(1, writes // POINTS))
    moments = max(POINTS - len(at_writes), POINTS // 4)
    points = [{"stop_at": place} for place in at_writes]
    points += [{"after": whole * (place + 0.5) / moments} for place in range(moments)]
    assert len(points) >= POINTS
    stopped = 0
    for point in points:
        start_over()
        for signum in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
            status, took = runner.run(**point, signum=signum)
            where = f"{script}, {signal.Signals(signum).name} at {point}: status {status}\n{runner.said}"
            if status == 0:  # it was done before the signal came
                assert artifacts(output) == expected, where
                continue
            stopped += 1
            if signum == signal.SIGKILL:
                assert status == -signum, where
            else:
                assert status in (-signum, 128 + signum), where
                assert took < 5 and "Traceback" not in runner.said, f"{took:.1f} s; {where}"
        status, _ = runner.run()
        where = f"{where}\nand again: status {status}\n{runner.said}"
        assert status == 0, where
        assert artifacts(output) == expected, where
        left = [path for path in output.rglob(".*") if path.name != ".lock"]
        assert not left, f"{left}; {where}"
    assert stopped >= len(points)
    record_property("tried", stopped)
