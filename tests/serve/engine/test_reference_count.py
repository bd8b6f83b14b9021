"""An object that waits until nobody holds it."""

import asyncio

from torchship.serve.engine.reference_count import ReferenceCounted


def test_every_waiter_continues_when_the_object_is_free() -> None:
    async def check() -> None:
        held = ReferenceCounted()
        await held.free()
        with held:
            with held:
                waiting = [asyncio.create_task(held.free()) for _ in range(3)]
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
            waiting.pop().cancel()
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*waiting), 60)

    asyncio.run(check())


def test_a_holder_that_holds_again_at_once_is_waited_for() -> None:
    async def check() -> None:
        held = ReferenceCounted()
        with held:
            waiting = asyncio.create_task(held.free())
            await asyncio.sleep(0)
        with held:
            for _ in range(3):
                await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 60)

    asyncio.run(check())
