"""A real Python client at work: list then watch, leases, compare and swap, locks, paging by range.

Usage: aetcd_scenario.py ENDPOINT[,ENDPOINT...] [SCENARIO...]; each step goes to the next endpoint; INTEROP_USER and
INTEROP_PASSWORD log in. Exits 0 when all held.
"""

import asyncio
import os
import sys
import urllib.parse

import aetcd


async def keys(client, other):
    await client.put(b"py/a", b"1")
    await client.put(b"py/b", b"2")
    replaced = await client.put(b"py/a", b"3", prev_kv=True)
    assert replaced.prev_kv.value == b"1", replaced.prev_kv
    read = await other.get(b"py/a")
    assert (read.value, read.version) == (b"3", 2), read
    assert await other.get(b"py/none") is None
    found = [(kv.key, kv.value) async for kv in aiter_of(await other.get_prefix(b"py/"))]
    assert found == [(b"py/a", b"3"), (b"py/b", b"2")], found
    down = [kv.key async for kv in aiter_of(await other.get_prefix(b"py/", sort_order="descend", sort_target="key"))]
    assert down == [b"py/b", b"py/a"], down
    gone = await client.delete(b"py/a", prev_kv=True)
    assert gone.prev_kv.value == b"3"
    assert await other.get(b"py/a") is None


async def aiter_of(result):
    for one in result:
        yield one


async def compare_and_swap(client, other):
    await client.put(b"cas", b"0")
    for number in range(10):
        who = client if number % 2 else other
        assert await who.replace(b"cas", str(number).encode(), str(number + 1).encode())
    assert not await other.replace(b"cas", b"0", b"lost")
    assert (await client.get(b"cas")).value == b"10"
    done, _ = await client.transaction(
        compare=[client.transactions.value(b"cas") == b"10", client.transactions.version(b"cas") > 5],
        success=[client.transactions.put(b"cas", b"won"), client.transactions.get(b"cas")],
        failure=[client.transactions.put(b"cas", b"lost")],
    )
    assert done and (await other.get(b"cas")).value == b"won"


async def list_then_watch(client, other):
    await client.put(b"lw/1", b"x")
    listed = await client.get_prefix(b"lw/")
    watch = await other.watch_prefix(b"lw/", start_revision=listed.header.revision + 1, prev_kv=True)
    await client.put(b"lw/1", b"y")
    await client.delete(b"lw/1")
    told = []
    async for event in watch:
        told.append((event.kind, event.kv.key, event.kv.value, event.prev_kv.value))
        if len(told) == 2:
            break
    await watch.cancel()
    assert told == [
        (aetcd.EventKind.PUT, b"lw/1", b"y", b"x"),
        (aetcd.EventKind.DELETE, b"lw/1", b"", b"y"),
    ], told


async def leases(client, other):
    lease = await client.lease(600)
    await client.put(b"leased", b"x", lease=lease)
    info = await client.get_lease_info(lease.id) if hasattr(client, "get_lease_info") else None
    assert info is None or b"leased" in info.keys, info
    await lease.refresh()
    await lease.revoke()
    assert await other.get(b"leased") is None


async def locks(client, other):
    first = client.lock(b"py-lock", ttl=30)
    second = other.lock(b"py-lock", ttl=30)
    assert await first.acquire(timeout=5)
    waiting = asyncio.ensure_future(second.acquire(timeout=20))
    await asyncio.sleep(0.2)
    assert not waiting.done(), "two hold one lock"
    await first.release()
    assert await waiting
    await second.release()


async def main(endpoints, wanted):
    clients = []
    for endpoint in endpoints:
        url = urllib.parse.urlsplit(endpoint)
        client = aetcd.Client(
            host=url.hostname,
            port=url.port,
            timeout=20,
            username=os.environ.get("INTEROP_USER"),
            password=os.environ.get("INTEROP_PASSWORD"),
        )
        await client.connect()
        clients.append(client)
    try:
        steps = [keys, compare_and_swap, list_then_watch, leases, locks]
        for number, step in enumerate(step for step in steps if not wanted or step.__name__ in wanted):
            client, other = clients[number % len(clients)], clients[(number + 1) % len(clients)]
            await step(client, other)
            print(f"aetcd: {step.__name__} held")
    finally:
        for client in clients:
            await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1].split(","), sys.argv[2:]))
