"""Patroni's own DCS classes: two nodes race for one PostgreSQL cluster's leadership, without a PostgreSQL.

Usage: patroni_scenario.py ENDPOINT[,ENDPOINT...] [SCENARIO...]; INTEROP_USER and INTEROP_PASSWORD log in.
With three endpoints the leading member is killed as well. Exits 0 when all held.
"""

import json
import os
import sys
import threading
import time

from patroni.dcs import get_dcs
from patroni.dcs.etcd3 import Etcd3

# Of a node's session. etcd gives no lease less than two seconds, and Patroni renews it once a loop.
TTL, LOOP_WAIT, RETRY = 6, 1, 20


def node(endpoints, scope, name):
    own = {"hosts": [endpoint.split("//")[1] for endpoint in endpoints]}
    if os.environ.get("INTEROP_USER"):
        own |= {"username": os.environ["INTEROP_USER"], "password": os.environ["INTEROP_PASSWORD"]}
    config = {"etcd3": own, "namespace": "/service/", "scope": scope, "name": name,
              "ttl": TTL, "loop_wait": LOOP_WAIT, "retry_timeout": RETRY}
    dcs = get_dcs(config)
    assert type(dcs) is Etcd3, dcs
    dcs.set_retry_timeout(RETRY)
    return dcs


def until(what, held, within=30):
    """A node's view follows its watch, so what another node did shows after a moment."""
    deadline = time.monotonic() + within
    while True:
        seen = held()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"not in {within} s: {what}"
        time.sleep(0.05)


def both(*calls):
    """The results of calls that run at the same time."""
    results = [None] * len(calls)

    def run(index):
        results[index] = calls[index]()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a call hangs"
    return results


def register(one, two):
    """The bootstrap: one node initialises the cluster, both of them make themselves known."""
    assert sorted(map(bool, both(lambda: one.initialize(create_new=True, sysid="7"),
                                 lambda: two.initialize(create_new=True, sysid="7")))) == [False, True]
    for dcs in (one, two):
        assert dcs.touch_member({"role": "replica", "state": "running", "conn_url": f"postgres://{dcs._name}/"})
    for dcs in (one, two):
        until("both members", lambda dcs=dcs: len(dcs.get_cluster().members) == 2)
        cluster = dcs.get_cluster()
        assert cluster.initialize == "7" and cluster.is_unlocked(), cluster
        assert {member.name: member.data["conn_url"] for member in cluster.members} == {
            "one": "postgres://one/", "two": "postgres://two/"}, cluster


def race(one, two):
    """Who acquires the leader key; the other one is told and stands back."""
    won = [bool(had) for had in both(one.attempt_to_acquire_leader, two.attempt_to_acquire_leader)]
    assert sorted(won) == [False, True], won
    leads, follows = (one, two) if won[0] else (two, one)
    for dcs in (leads, follows):
        until("the leader", lambda dcs=dcs: not dcs.get_cluster().is_unlocked())
        assert dcs.get_cluster().leader.name == leads._name
    assert not follows.attempt_to_acquire_leader()
    return leads, follows


def keep(leads, lsn):
    """One turn of the leader's loop; true if it may go on."""
    cluster = leads.get_cluster()
    return cluster.leader is not None and leads.update_leader(cluster, lsn, {"slot": lsn})


def leadership(one, two):
    register(one, two)
    leads, follows = race(one, two)
    # Longer than the session lives without being renewed.
    for turn in range(2 * TTL):
        assert keep(leads, 100 + turn), turn
        follows.touch_member({"turn": turn})
        time.sleep(0.6 * LOOP_WAIT)
    until("the status", lambda: follows.get_cluster().status.last_lsn == 99 + 2 * TTL)
    cluster = follows.get_cluster()
    assert cluster.leader.name == leads._name and cluster.status.slots["slot"] == 99 + 2 * TTL, cluster
    # A leader that steps down wakes the other one, which takes over.
    follows.event.clear()
    woken, done = both(lambda: follows.watch(cluster.leader.version, 30),
                       lambda: leads.delete_leader(leads.get_cluster().leader))
    assert woken and done is not False, (woken, done)
    until("no leader", lambda: follows.get_cluster().is_unlocked())
    assert follows.attempt_to_acquire_leader()
    until("the other leader", lambda: leads.get_cluster().leader and leads.get_cluster().leader.name == follows._name)
    # The new one falls silent: its session ends and with it the leader's key and the member's.
    leads.event.clear()
    assert leads.watch(leads.get_cluster().leader.version, 10 * TTL)
    until("no leader", lambda: leads.get_cluster().is_unlocked())
    assert leads.attempt_to_acquire_leader()


def documents(one, two):
    """Configuration, failover, synchronous state and history: each replaced only by who has seen it."""
    register(one, two)
    assert one.set_config_value(json.dumps({"ttl": 20}))
    config = until("the configuration", lambda: two.get_cluster().config)
    assert config.data == {"ttl": 20}
    swaps = both(lambda: one.set_config_value(json.dumps({"ttl": 21}), config.modify_version),
                 lambda: two.set_config_value(json.dumps({"ttl": 22}), config.modify_version))
    assert sorted(swaps) == [False, True], swaps
    stands = {"ttl": 21 if swaps[0] else 22}
    for dcs in (one, two):
        until("the new configuration", lambda dcs=dcs: dcs.get_cluster().config.data == stands)
    assert not one.set_config_value("{}", config.modify_version)

    assert one.manual_failover("one", "two")
    failover = until("the failover", lambda: two.get_cluster().failover)
    assert (failover.leader, failover.candidate) == ("one", "two")
    assert not two.manual_failover("", "", version="1")
    assert two.manual_failover("", "", version=failover.version)
    until("no failover", lambda: not one.get_cluster().failover.candidate)

    first = one.write_sync_state("one", ["two"], 0)
    assert first, "the synchronous state is written"
    seen = until("the synchronous state", lambda: (sync := two.get_cluster().sync).leader == "one" and sync)
    assert seen.voters == ["two"]
    assert two.write_sync_state("two", [], 0, version=seen.version)
    assert not one.write_sync_state("one", [], 0, version=seen.version)
    until("the new state", lambda: one.get_cluster().sync.leader == "two")
    assert not one.delete_sync_state(version=seen.version)
    assert one.delete_sync_state(version=one.get_cluster().sync.version)

    assert one.set_history_value(json.dumps([[1, 2, "no recovery target specified"]]))
    assert until("the history", lambda: two.get_cluster().history).lines == [[1, 2, "no recovery target specified"]]
    assert one.delete_cluster()
    until("nothing", lambda: not two.get_cluster().members)


def ask(what):
    print(f"? {what}", flush=True)
    assert sys.stdin.readline(), f"nobody answers {what}"


def leader_kill(one, two):
    """The member that leads the store dies: no node's leadership does."""
    register(one, two)
    leads, follows = race(one, two)
    lost, stop = [], threading.Event()

    def loop():
        turn = 0
        while not stop.is_set():
            turn += 1
            try:
                if not keep(leads, turn):
                    lost.append(turn)
            except Exception as error:
                lost.append(error)
            stop.wait(0.2)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        ask("kill-leader")
        reached = follows.get_cluster().status.last_lsn or 0
        until("the leader's news", lambda: (follows.get_cluster().status.last_lsn or 0) > reached + 5)
        assert not follows.attempt_to_acquire_leader()
        assert follows.touch_member({"after": "the kill"})
        ask("restart")
        reached = follows.get_cluster().status.last_lsn
        until("the leader's news", lambda: follows.get_cluster().status.last_lsn > reached + 5)
    finally:
        stop.set()
        thread.join(60)
    assert not lost, lost
    assert follows.get_cluster().leader.name == leads._name


SCENARIOS = [(leadership, 1), (documents, 1), (leader_kill, 3)]


def main(endpoints, wanted):
    for scenario, members in SCENARIOS:
        name = scenario.__name__.replace("_", "-")
        if len(endpoints) < members or wanted and name not in wanted:
            continue
        started = time.monotonic()
        scenario(*(node(endpoints, name, which) for which in ("one", "two")))
        print(f"patroni: {name} held ({time.monotonic() - started:.1f} s)", flush=True)
    # Its watching threads have no end of their own.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    try:
        main(sys.argv[1].split(","), sys.argv[2:])
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
