"""The `etcd3` package at work: synchronous, one endpoint per client.

Usage: etcd3_scenario.py ENDPOINT[,ENDPOINT...] [SCENARIO...]; INTEROP_USER and INTEROP_PASSWORD log in. `? kill-leader` and
`? restart` on stdout ask the harness for them; it answers by a line. Exits 0 when all held.
"""

import os
import queue
import sys
import threading
import time
import urllib.parse

import etcd3
import etcd3.exceptions

WITHIN = 60


def connect(endpoint):
    url = urllib.parse.urlsplit(endpoint)
    return etcd3.client(
        host=url.hostname, port=url.port, timeout=20,
        user=os.environ.get("INTEROP_USER"), password=os.environ.get("INTEROP_PASSWORD"),
    )


def ask(what):
    print(f"? {what}", flush=True)
    assert sys.stdin.readline(), f"nobody answers {what}"


def again(attempt):
    """What a change of leader may interrupt is tried again, as any program has to."""
    until = time.monotonic() + WITHIN
    while True:
        try:
            return attempt()
        except etcd3.exceptions.Etcd3Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def keys(client, other):
    client.put("e3/a", "1")
    replaced = client.put("e3/a", "2", prev_kv=True)
    assert replaced.prev_kv.value == b"1", replaced
    client.put("e3/b", "3")
    value, meta = other.get("e3/a")
    assert (value, meta.version) == (b"2", 2), (value, meta)
    assert other.get("e3/none") == (None, None)
    down = [meta.key for _, meta in other.get_prefix("e3/", sort_order="descend", sort_target="value")]
    assert down == [b"e3/b", b"e3/a"], down
    assert other.delete("e3/a", prev_kv=True, return_response=True).prev_kvs[0].value == b"2"
    assert client.delete_prefix("e3/").deleted == 1
    try:
        client.put("", "x")
    except Exception as refused:
        assert "key is not provided" in str(refused), refused
    else:
        raise AssertionError("no key at all was taken")


def compare_and_swap(client, other):
    client.put("e3-cas", "0")

    def steps(own):
        done = 0
        while done < 15:
            value, _ = own.get("e3-cas")
            done += own.replace("e3-cas", value, str(int(value) + 1))

    threads = [threading.Thread(target=steps, args=(own,)) for own in (client, other, client, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN)
    assert other.get("e3-cas")[0] == b"60", other.get("e3-cas")


def nested_transactions(client, other):
    made, answers = client.transaction(
        compare=[client.transactions.version("e3-nested") == 0],
        success=[
            client.transactions.put("e3-nested", "outer"),
            client.transactions.txn(
                compare=[client.transactions.create("e3-inner") == 0],
                success=[client.transactions.put("e3-inner", "inner")],
                failure=[],
            ),
            client.transactions.get("e3-nested"),
        ],
        failure=[],
    )
    assert made and answers[2][0][0] == b"outer", answers
    assert other.get("e3-inner")[0] == b"inner"
    client.delete("e3-nested")
    client.delete("e3-inner")


def many_keys(client, other):
    """It has no limit, so it takes all pages as one answer."""
    for start in range(0, 5_000, 100):
        client.transaction(compare=[], success=[client.transactions.put(f"e3-many/{start + i:05}", "x" * 50) for i in range(100)], failure=[])
    found = [meta.key for _, meta in other.get_prefix("e3-many/")]
    assert found == [f"e3-many/{i:05}".encode() for i in range(5_000)], len(found)
    halves = [len(list(other.get_range(start, end))) for start, end in (("e3-many/", "e3-many/02500"), ("e3-many/02500", "e3-many0"))]
    assert halves == [2_500, 2_500], halves
    assert client.delete_prefix("e3-many/").deleted == 5_000


def list_then_watch(client, other):
    client.put("e3-lw/1", "x")
    listed = other.get_prefix_response("e3-lw/")
    for number in range(20):
        client.put(f"e3-lw/{number % 5}", str(number))
    client.delete("e3-lw/1")
    told = queue.Queue()
    watch = other.add_watch_prefix_callback(
        "e3-lw/", lambda answer: told.put(answer), start_revision=listed.header.revision + 1, prev_kv=True)
    events = []
    while len(events) < 21:
        answer = told.get(timeout=WITHIN)
        assert not isinstance(answer, Exception), answer
        events += answer.events
    other.cancel_watch(watch)
    assert [event.value for event in events[:20]] == [str(number).encode() for number in range(20)], events
    assert isinstance(events[20], etcd3.events.DeleteEvent) and events[20].prev_value == b"16", events[20]


def watch_after_compaction(client, other):
    revisions = [client.put("e3-compact", str(number)).header.revision for number in range(6)]
    client.compact(revisions[4], physical=True)
    told = queue.Queue()
    other.add_watch_callback("e3-compact", told.put, start_revision=revisions[1])
    answer = told.get(timeout=WITHIN)
    assert isinstance(answer, etcd3.exceptions.RevisionCompactedError), answer
    assert answer.compacted_revision == revisions[4], answer.compacted_revision
    other.add_watch_callback("e3-compact", told.put, start_revision=answer.compacted_revision)
    events = []
    while len(events) < 2:
        events += told.get(timeout=WITHIN).events
    assert [event.value for event in events] == [b"4", b"5"], events


def leases(client, other):
    lease = client.lease(600)
    client.put("e3-leased", "x", lease=lease)
    assert lease.granted_ttl == 600 and 500 < lease.remaining_ttl <= 600
    assert list(lease.keys) == [b"e3-leased"], lease.keys
    assert lease.refresh()[0].TTL == 600
    lease.revoke()
    assert other.get("e3-leased") == (None, None)


def locks(client, other):
    inside = []

    def turn(own):
        for _ in range(3):
            lock = own.lock("e3-lock", ttl=20)
            assert lock.acquire(timeout=WITHIN)
            assert lock.is_acquired() and not inside, "two hold one lock"
            inside.append(1)
            time.sleep(0.01)
            inside.pop()
            lock.release()

    failures = []

    def kept(own):
        try:
            turn(own)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=kept, args=(own,)) for own in (client, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN)
    assert not failures, failures


def over_leader_kill(clients):
    # A client of one endpoint needs one that stays.
    leader = clients[0].status().leader
    names = {urllib.parse.urlsplit(member.client_urls[0]).port: member.id for member in clients[0].members}
    staying = [client for client in clients if names[client.port] != leader.id]
    client, other = staying[:2]
    lease = client.lease(6)
    client.put("e3-kept", "x", lease=lease)
    told = queue.Queue()
    other.add_watch_prefix_callback("e3-over/", told.put)
    ask("kill-leader")
    for number in range(5):
        again(lambda: client.put(f"e3-over/{number}", "x"))
    seen = set()
    while len(seen) < 5:
        seen |= {event.key for event in told.get(timeout=WITHIN).events}
    # Renewed for longer than it lives without.
    until = time.monotonic() + 8
    while time.monotonic() < until:
        assert again(lambda: lease.refresh())[0].TTL == 6
        time.sleep(1)
    assert other.get("e3-kept")[0] == b"x"
    ask("restart")


def main(endpoints, wanted):
    clients = []
    for endpoint in endpoints:
        client = connect(endpoint)
        # It keeps only a URL.
        client.port = urllib.parse.urlsplit(endpoint).port
        clients.append(client)
    scenarios = [keys, compare_and_swap, nested_transactions, many_keys, list_then_watch, watch_after_compaction, leases, locks]
    for number, scenario in enumerate(one for one in scenarios if not wanted or one.__name__ in wanted):
        scenario(clients[number % len(clients)], clients[(number + 1) % len(clients)])
        print(f"etcd3: {scenario.__name__} held", flush=True)
    if len(clients) > 2 and (not wanted or over_leader_kill.__name__ in wanted):
        over_leader_kill(clients)
        print("etcd3: over_leader_kill held", flush=True)


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2:])
    # Its watch threads outlive what they watched.
    os._exit(0)
