"""A task ends even when it swallows a cancellation, as asyncio.wait_for may."""

import asyncio

from gateway import tasks


def test_a_task_that_swallows_a_cancellation_ends() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(60)

    async def failing() -> None:
        raise ValueError

    async def scenario() -> None:
        async with asyncio.timeout(5):
            both = [asyncio.create_task(stubborn()), asyncio.create_task(failing())]
            await asyncio.sleep(0)
            await tasks.end(*both, None)
            assert all(task.done() for task in both)

    asyncio.run(scenario())
