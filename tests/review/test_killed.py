"""A program that is killed amid its edits loses none of them."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_case import open_case, state, tiny_result

from medpanoptic.errors import ReviewError
from medpanoptic.io import write_result
from medpanoptic.review import stroke

CHILD = """
import random, sys
sys.path.insert(0, sys.argv[1])
from test_killed import random_edit
from tiny_case import open_case
from pathlib import Path
session = open_case(Path(sys.argv[2]))
draw = random.Random(int(sys.argv[3]))
while True:
    random_edit(session, draw)
    print(len(session.journal.lines), flush=True)
"""


def random_edit(session, draw):
    """One edit drawn from a seeded generator: the same draws make the same review."""
    point = [draw.randrange(n) for n in session.ids.shape]
    name = draw.choice(["paint", "erase", "accept", "reject", "undo", "redo", "merge", "add"])
    lesion = draw.choice(session.things or [3])
    region = stroke([point], draw.uniform(0.5, 4), session.affine, session.ids.shape)
    try:
        if name in ("undo", "redo"):
            getattr(session, name)()
        elif name in ("paint", "erase"):
            getattr(session, name)(lesion, region)
        elif name == "merge":
            session.merge([lesion, draw.choice(session.things)])
        elif name == "add":
            session.add(region, 3)
        else:
            getattr(session, name)(lesion)
    except ReviewError:
        pass


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_program_loses_nothing(case, seed):
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(case), str(seed)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    said = 0
    enough = random.Random(seed).randrange(5, 120)
    while said < enough:
        said = int(child.stdout.readline())
    time.sleep(random.Random(seed).uniform(0, 0.02))
    child.kill()  # SIGKILL: no handler, no clean-up
    said = max([said, *(int(line) for line in child.communicate()[0].split() if line)])
    recovered = open_case(case)
    kept = [line for line in recovered.journal.lines if line["action"] != "recovered"]
    assert len(kept) >= said
    # the same draws in a program that nobody kills
    twin = case.parent / "twin"
    write_result(tiny_result(), twin, formats=["csv"])
    undisturbed = open_case(twin)
    draw = random.Random(seed)
    while len(undisturbed.journal.lines) < len(kept):
        random_edit(undisturbed, draw)
    assert state(recovered) == state(undisturbed)
    assert [line["hash"] for line in kept] == [line["hash"] for line in undisturbed.journal.lines]
