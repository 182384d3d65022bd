"""Anything at all on the port: an answer in the right shape or a closed connection, never a fault.

`make bench NAME=fuzz` plays this for minutes, and other such things.
"""

from hypothesis import given, settings

from tests.gateway import edge
from tests.gateway.rig import Rig


def test_anything_at_all_gets_an_answer_or_the_door(tiny: Rig) -> None:
    with edge.watched_faults() as faults:

        @settings(max_examples=60, deadline=None)
        @given(edge.conversations)
        def hold(sent: list[bytes]) -> None:
            tiny.spool.opened.clear()
            said = edge.converse(tiny.port, sent)
            edge.check(said, b"".join(sent), len(tiny.spool.opened))
            assert not faults, faults

        hold()
    assert tiny.chat("tiny").status == 200
    tiny.until(lambda: not tiny.spool.in_flight)
    assert tiny.activity.balance("running") == 0
