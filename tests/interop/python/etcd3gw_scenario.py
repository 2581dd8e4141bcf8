"""etcd3gw, which speaks nothing but the JSON gateway: keys, leases, compare and swap, locks, watch.

Usage: etcd3gw_scenario.py HOST PORT [PORT...]; each step goes to the next port. Exits 0 when all held.
"""

import sys
import threading

import etcd3gw


def keys(client, other):
    assert client.put("gw/a", b"\x00\xff1")
    assert client.put("gw/b", "2")
    assert other.get("gw/a") == [b"\x00\xff1"]
    assert other.get("gw/none") == []
    found = [(kv["key"], value) for value, kv in other.get_prefix("gw/", sort_order="descend", sort_target="key")]
    assert found == [(b"gw/b", b"2"), (b"gw/a", b"\x00\xff1")], found
    value, kv = client.get("gw/a", metadata=True)[0]
    assert (value, kv["version"]) == (b"\x00\xff1", "1"), kv
    assert other.get("gw/a", count_only=True) == []
    assert client.delete("gw/a") and not other.delete("gw/a")
    assert other.get_all()
    assert client.delete_prefix("gw/")


def compare_and_swap(client, other):
    assert client.create("cas", "0")
    assert not other.create("cas", "lost")
    for number in range(10):
        who = client if number % 2 else other
        assert who.replace("cas", str(number), str(number + 1))
    assert not other.replace("cas", "0", "lost")
    assert client.get("cas") == [b"10"]


def leases(client, other):
    lease = client.lease(ttl=600)
    assert client.put("leased", "x", lease)
    assert lease.keys() == [b"leased"], lease.keys()
    assert 0 < lease.ttl() <= 600
    assert lease.refresh() == 600
    assert lease.revoke()
    assert other.get("leased") == []
    assert lease.ttl() == -1


def locks(client, other):
    first, second = client.lock("gw-lock", ttl=30), other.lock("gw-lock", ttl=30)
    assert first.acquire() and first.is_acquired()
    assert not second.acquire()
    assert first.release() and second.acquire()
    second.refresh()
    assert second.release()


def watch(client, other):
    told, enough = [], threading.Event()

    def tell(event):
        told.append((event.get("type", "PUT"), event["kv"]["key"], event["kv"].get("value")))
        if len(told) == 3:
            enough.set()

    client.put("w/0", "before")
    # etcd3gw does not say when its watch has begun, so it begins in the past.
    start = int(client.get("w/0", metadata=True)[0][1]["mod_revision"])
    events, cancel = other.watch_prefix("w/", start_revision=start)
    reader = threading.Thread(target=lambda: [tell(event) for event in events], daemon=True)
    reader.start()
    client.put("w/1", "new")
    client.delete("w/1")
    assert enough.wait(20), told
    cancel()
    assert told == [("PUT", b"w/0", b"before"), ("PUT", b"w/1", b"new"), ("DELETE", b"w/1", None)], told


def refusals(client, _):
    try:
        client.put("", "x")
    except etcd3gw.exceptions.Etcd3Exception as refused:
        assert "key is not provided" in str(refused) + str(getattr(refused, "detail_text", "")), refused
    else:
        raise AssertionError("an empty key was taken")
    assert client.status()["version"] == "3.7.1"
    assert client.members()[0]["peerURLs"]


def main(host, ports):
    clients = [etcd3gw.client(host=host, port=port, api_path="/v3/", timeout=20) for port in ports]
    for number, step in enumerate([keys, compare_and_swap, leases, locks, watch, refusals]):
        step(clients[number % len(clients)], clients[(number + 1) % len(clients)])
        print(f"etcd3gw: {step.__name__} held")


if __name__ == "__main__":
    main(sys.argv[1], [int(port) for port in sys.argv[2:]])
