"""The gateway as APISIX uses it by lua-resty-etcd: its request shapes over plain HTTP/1.1.

Usage: apisix_scenario.py ENDPOINT[,ENDPOINT...] [SCENARIO...]; INTEROP_USER and INTEROP_PASSWORD log in.
With three endpoints the leading member is killed as well. Exits 0 when all held.
"""

import base64
import http.client
import json
import os
import sys
import time

WITHIN = 30


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def decoded(text):
    return json.loads(base64.b64decode(text))


def below(prefix):
    """The fields of a request for everything that begins so; the end is the prefix with its last byte one higher."""
    return {"key": encoded(prefix), "range_end": encoded(prefix[:-1] + chr(ord(prefix[-1]) + 1))}


class Etcd:
    """A client that goes round its endpoints, keeps its connections and asks for a token when it needs one."""

    def __init__(self, endpoints):
        self.endpoints = endpoints
        self.turn = 0
        self.user = os.environ.get("INTEROP_USER")
        self.token = None
        self.kept = {}

    def connection(self, endpoint, fresh=False):
        if fresh or endpoint not in self.kept:
            self.kept[endpoint] = http.client.HTTPConnection(endpoint.split("//")[1], timeout=WITHIN)
        return self.kept[endpoint]

    def headers(self):
        headers = {"Content-Type": "application/json", "User-Agent": "lua-resty-http"}
        return headers | ({"Authorization": self.token} if self.token else {})

    def log_in(self):
        if self.user and not self.token:
            answer = self.once("/auth/authenticate", {"name": self.user, "password": os.environ["INTEROP_PASSWORD"]})
            self.token = answer["token"]

    def once(self, path, body, fresh=False):
        endpoint = self.endpoints[self.turn % len(self.endpoints)]
        connection = self.connection(endpoint, fresh)
        try:
            connection.request("POST", "/v3" + path, json.dumps(body), self.headers())
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.kept.pop(endpoint, None)
            self.turn += 1
            raise ConnectionError(endpoint) from error
        answer = json.loads(text.splitlines()[0])
        if response.status != 200:
            raise Refused(response.status, answer)
        return answer

    def call(self, path, body):
        """As its health check does: an endpoint that fails is left for the next one, a stale token renewed."""
        deadline = time.monotonic() + WITHIN
        while True:
            try:
                self.log_in()
                return self.once(path, body)
            except ConnectionError:
                assert time.monotonic() < deadline, path
            except Refused as refused:
                if refused.status == 401 and self.token:
                    self.token = None
                elif refused.status in (503, 504) and time.monotonic() < deadline:
                    self.turn += 1
                else:
                    raise
            time.sleep(0.05)

    def watch(self, prefix, start):
        """The results of a watch, as they come, on a connection of its own."""
        self.log_in()
        endpoint = self.endpoints[self.turn % len(self.endpoints)]
        connection = http.client.HTTPConnection(endpoint.split("//")[1], timeout=WITHIN)
        create = {"create_request": below(prefix) | {"start_revision": start, "prev_kv": True}}
        connection.request("POST", "/v3/watch", json.dumps(create), self.headers())
        response = connection.getresponse()
        assert response.status == 200, response.status
        assert response.getheader("Transfer-Encoding") == "chunked"
        while line := response.readline():
            yield json.loads(line)["result"]
        raise ConnectionError(endpoint)

    def put(self, key, value, **more):
        return self.call("/kv/put", {"key": encoded(key), "value": encoded(json.dumps(value))} | more)

    def read(self, key):
        found = self.call("/kv/range", {"key": encoded(key)}).get("kvs", [])
        return [(decoded(kv["value"]), kv) for kv in found]


class Refused(Exception):
    def __init__(self, status, body):
        super().__init__(status, body)
        self.status, self.body = status, body


def watched(results):
    for result in results:
        for event in result.get("events", []):
            kv = event["kv"]
            yield event.get("type", "PUT"), base64.b64decode(kv["key"]).decode(), kv.get("value"), event.get("prev_kv")


def routes(etcd, _):
    """The data plane reads everything below a prefix and follows it from the next revision on."""
    prefix = "/apisix/routes/"
    etcd.put("/apisix/routes", "init_dir")
    for number in range(1, 4):
        etcd.put(prefix + str(number), {"id": str(number), "uri": f"/{number}"})
    listed = etcd.call("/kv/range", below(prefix))
    assert listed["count"] == "3" and [decoded(kv["value"])["id"] for kv in listed["kvs"]] == ["1", "2", "3"], listed
    start = int(listed["header"]["revision"]) + 1
    results = etcd.watch(prefix, start)
    created = next(results)
    assert created["created"] is True and "events" not in created, created
    events = watched(results)
    etcd.put(prefix + "2", {"id": "2", "uri": "/other"})
    kind, key, value, before = next(events)
    assert (kind, key, decoded(value)["uri"]) == ("PUT", prefix + "2", "/other"), (kind, key, value)
    assert decoded(before["value"])["uri"] == "/2", before
    gone = etcd.call("/kv/deleterange", {"key": encoded(prefix + "1"), "prev_kv": True})
    assert gone["deleted"] == "1" and decoded(gone["prev_kvs"][0]["value"])["id"] == "1", gone
    kind, key, value, before = next(events)
    assert (kind, key, value) == ("DELETE", prefix + "1", None), (kind, key, value)
    # Another node that comes later starts where it has read up to, and sees the same.
    late = watched(etcd.watch(prefix, start))
    assert [next(late)[:2] for _ in range(2)] == [("PUT", prefix + "2"), ("DELETE", prefix + "1")]


def admin(etcd, other):
    """The control plane writes with compare and swap: create only what is not there, replace only what was read."""
    key = "/apisix/upstreams/1"

    def swap(who, field, expected, value):
        return who.call("/kv/txn", {
            "compare": [{"target": field.split("_")[0].upper(), "key": encoded(key), field: expected}],
            "success": [{"requestPut": {"key": encoded(key), "value": encoded(json.dumps(value))}}],
            "failure": [{"requestRange": {"key": encoded(key)}}],
        })

    made = swap(etcd, "create_revision", 0, {"n": 0})
    assert made["succeeded"] is True, made
    lost = swap(other, "create_revision", 0, {"n": -1})
    assert "succeeded" not in lost, lost
    assert decoded(lost["responses"][0]["response_range"]["kvs"][0]["value"]) == {"n": 0}, lost
    for number in range(10):
        who = (etcd, other)[number % 2]
        value, kv = who.read(key)[0]
        assert swap(who, "mod_revision", kv["mod_revision"], {"n": value["n"] + 1})["succeeded"] is True
        assert "succeeded" not in swap(who, "mod_revision", kv["mod_revision"], {"n": 99})
    assert etcd.read(key)[0][0] == {"n": 10}


def registry(etcd, other):
    """A server's entry lives as long as its lease is renewed; each renewal is a request of one line."""
    lease = etcd.call("/lease/grant", {"TTL": 3})["ID"]
    assert isinstance(lease, str) and int(lease) > 0
    etcd.put("/apisix/data_plane/server_info/x", {"up": True}, lease=lease)
    started = time.monotonic()
    while time.monotonic() < started + 5:
        kept = other.call("/lease/keepalive", {"ID": lease})
        assert kept["result"]["TTL"] == "3", kept
        time.sleep(0.5)
    told = etcd.call("/lease/timetolive", {"ID": lease, "keys": True})
    assert told["grantedTTL"] == "3" and len(told["keys"]) == 1, told
    start = int(told["header"]["revision"]) + 1
    kind, key, _, before = next(watched(other.watch("/apisix/data_plane/", start)))
    assert (kind, key) == ("DELETE", "/apisix/data_plane/server_info/x") and decoded(before["value"]) == {"up": True}
    assert etcd.call("/lease/keepalive", {"ID": lease})["result"].get("TTL") is None
    try:
        etcd.call("/lease/revoke", {"ID": lease})
        raise AssertionError("an expired lease was revoked")
    except Refused as refused:
        assert refused.status == 404 and refused.body["code"] == 5, refused


def compaction(etcd, other):
    """A node that was away for too long is told from where history begins, and reads everything again."""
    first = int(etcd.put("/apisix/consumers/a", 1)["header"]["revision"])
    newest = int(etcd.put("/apisix/consumers/a", 2)["header"]["revision"])
    etcd.call("/kv/compaction", {"revision": str(newest)})
    # What the other endpoint tells from here on, it tells after the compaction.
    assert other.read("/apisix/consumers/a")[0][0] == 2
    for result in other.watch("/apisix/consumers/", first):
        if result.get("canceled"):
            assert int(result["compact_revision"]) == newest, result
            break
        assert result.get("created"), result
    try:
        other.call("/kv/range", {"key": encoded("/apisix/consumers/a"), "revision": first})
        raise AssertionError("compacted history was told")
    except Refused as refused:
        assert (refused.status, refused.body["code"]) == (400, 11), refused
        assert "required revision has been compacted" in refused.body["message"]
    assert etcd.read("/apisix/consumers/a")[0][0] == 2


def refusals(etcd, other):
    for path, body, status, code in [
        ("/kv/put", {"value": encoded("x")}, 400, 3),
        ("/kv/put", {"key": encoded("k"), "lease": "12345"}, 404, 5),
        ("/kv/nothing", {}, 404, 5),
        ("/kv/put", {"key": "not base64!"}, 400, 3),
    ]:
        try:
            etcd.call(path, body)
            raise AssertionError((path, body))
        except Refused as refused:
            assert (refused.status, refused.body["code"]) == (status, code), (path, body, refused)
    if not etcd.user:
        return
    stale = Etcd(other.endpoints)
    stale.token = "stale.1"
    try:
        stale.once("/kv/put", {"key": encoded("/apisix/x")})
        raise AssertionError("a stale token was taken")
    except Refused as refused:
        assert (refused.status, refused.body["code"]) == (401, 16), refused
    assert stale.put("/apisix/x", 1)["header"], "it has logged in again"


def ask(what):
    print(f"? {what}", flush=True)
    assert sys.stdin.readline(), f"nobody answers {what}"


def leader_kill(etcd, other):
    """A watch that breaks off is begun again after the last revision that was told: nothing is lost or told twice."""
    prefix, told = "/apisix/ssls/", []
    start = int(etcd.put(prefix + "0", 0)["header"]["revision"])

    def follow(until):
        nonlocal start
        deadline = time.monotonic() + WITHIN
        while len(told) < until:
            assert time.monotonic() < deadline, told
            try:
                for result in other.watch(prefix, start):
                    if result.get("canceled"):
                        # The token was of no use any more; the stream itself stays open.
                        other.token = None
                        break
                    for event in result.get("events", []):
                        told.append(decoded(event["kv"]["value"]))
                        start = int(event["kv"]["mod_revision"]) + 1
                    if len(told) >= until:
                        return
            except (OSError, http.client.HTTPException):
                other.turn += 1
                time.sleep(0.05)

    follow(1)
    ask("kill-leader")
    for number in range(1, 20):
        etcd.put(prefix + "0", number)
    follow(20)
    ask("restart")
    etcd.put(prefix + "0", 20)
    follow(21)
    # A put that broke off may have been done, and was then done again.
    assert list(dict.fromkeys(told)) == list(range(21)), told


SCENARIOS = [(routes, 1), (admin, 1), (registry, 1), (compaction, 1), (refusals, 1), (leader_kill, 3)]


def main(endpoints, wanted):
    for scenario, members in SCENARIOS:
        name = scenario.__name__.replace("_", "-")
        if len(endpoints) < members or wanted and name not in wanted:
            continue
        started = time.monotonic()
        # The second one begins at another endpoint.
        scenario(Etcd(endpoints), Etcd(endpoints[1:] + endpoints[:1]))
        print(f"apisix: {name} held ({time.monotonic() - started:.1f} s)", flush=True)


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2:])
