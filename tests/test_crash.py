"""Stop every script anywhere, run it again: the artifacts are those of an undisturbed run.

The points: every file that a script opens for writing, renames, makes or removes in its output directory (an audit
hook counts them, and stops the process at the n-th, before it happens), and moments spread over its whole time. The
script is killed at one point, run again and stopped at another with SIGINT, again at a third with SIGTERM, then left to
finish; the points that follow get the signals in another order. CRASH_POINTS sets how many points a script gets.
"""

import os
import shutil
import signal
import sys
import time

import pytest
from conftest import STEPS, build_once, load
from helpers.forked_runner import Runner, artifacts

from emojitune.artifacts import write_json

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="needs fork and signals"),
]

POINTS = int(os.environ.get("CRASH_POINTS", "40"))
PARTS = 2  # of a script's points, so that the workers share them
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
QUICK = {"05_test_base.py": ["--quick"]}  # what it leaves out is one picture more


@pytest.fixture
def undisturbed(script, shared, stages):
    """The artifacts of the script, how many writes it makes, and its seconds."""

    def build(folder):
        output = shutil.copytree(stages[script][0], folder / "out")
        runner = Runner(script, [*stages[script][1], *QUICK.get(script, ()), "--output-dir", output])
        start = time.monotonic()
        assert runner.run() == 0, runner.said
        facts = {"seconds": time.monotonic() - start, "writes": runner.writes, "artifacts": artifacts(output)}
        write_json(folder / "facts.json", facts)

    return load(build_once(shared / f"undisturbed-{script}", build) / "facts.json")


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("script", STEPS)
def test_stopped_anywhere_and_run_again(script, part, stages, undisturbed, shared):
    before, flags = stages[script]
    output = shared / f"undisturbed-{script}" / f"out-{part}"
    runner = Runner(script, [*flags, *QUICK.get(script, ()), "--output-dir", output])
    assert undisturbed["writes"] >= 3
    points = [{"stop_at": write} for write in range(1, undisturbed["writes"] + 1, -(-undisturbed["writes"] // POINTS))]
    moments = max(POINTS - len(points), POINTS // 4)
    points += [{"after": undisturbed["seconds"] * (moment + 0.5) / moments} for moment in range(moments)]
    chains = -(-len(points) // len(SIGNALS))
    for chain in range(part, chains, PARTS):
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(before, output)
        where = script
        for number, point in enumerate(points[chain::chains], chain):
            signum = SIGNALS[number % len(SIGNALS)]
            status = runner.run(**point, signum=signum)
            where += f"\n{signal.Signals(signum).name} at {point}: status {status}\n{runner.said}"
            assert "Traceback" not in runner.said, where
            if status == 0:  # it was done before the signal came
                assert artifacts(output) == undisturbed["artifacts"], where
            else:
                assert status == -signum if signum == signal.SIGKILL else status in (-signum, 128 + signum), where
        status = runner.run()
        where += f"\nand again: status {status}\n{runner.said}"
        assert status == 0, where
        assert artifacts(output) == undisturbed["artifacts"], where
        stale = [path for path in output.rglob(".*") if path.name != ".lock"]
        assert not stale, f"{stale}; {where}"
