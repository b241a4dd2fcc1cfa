"""Those who wait for a word, without HTTP."""

import asyncio

from tailfleet_coordinator.web.waiting import Waiting


def test_who_makes_it_look_goes_on_when_those_woken_are_answered():
    answered = []

    async def scene():
        waiting = Waiting(lambda keys: {"mine"} & set(keys), 3600.0)

        async def wait(key):
            with waiting.ticket(key) as ticket:
                if not await ticket.wait(20.0) or ticket.void:
                    return
                # An answer takes a while.
                for _ in range(1000):
                    await asyncio.sleep(0)
                answered.append(key)

        holders = [asyncio.create_task(wait(key)) for key in ("mine", "other")]
        await asyncio.sleep(0)
        await waiting.look_now()
        assert answered == ["mine"]
        waiting.close()
        await asyncio.gather(*holders)
        await waiting.look_now()

    asyncio.run(scene())
    assert answered == ["mine"]


def test_a_look_that_fails_is_not_the_asker_s_trouble():
    async def scene():
        waiting = Waiting(lambda keys: 1 / 0, 3600.0)
        with waiting.ticket("mine") as ticket:
            await waiting.look_now()
            assert not await ticket.wait(0.0)

    asyncio.run(scene())
