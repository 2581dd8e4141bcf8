"""Writes the vectors of this directory from the specification in keys/src/lib.rs alone.

An implementation of its own, over another library (pip install cryptography), so that a vector
that passes in Rust was agreed on twice. Every input is fixed: running it again changes nothing.
"""

import hashlib
import hmac
import json
import pathlib
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HERE = pathlib.Path(__file__).parent


def u16(n):
    return struct.pack(">H", n)


def u32(n):
    return struct.pack(">I", n)


def u64(n):
    return struct.pack(">Q", n)


def fixed(name, length):
    """Bytes that look random and never change."""
    return hashlib.shake_128(b"sealkv vectors: " + name.encode()).digest(length)


# Primitives


def xaes_seal(key, nonce, associated_data, plaintext):
    block = Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update
    l = int.from_bytes(block(bytes(16)), "big")
    k1 = ((l << 1) & ((1 << 128) - 1)) ^ (0x87 if l >> 127 else 0)
    derived = b"".join(
        block((int.from_bytes(bytes([0, i]) + b"X\0" + nonce[:12], "big") ^ k1).to_bytes(16, "big"))
        for i in (1, 2)
    )
    return AESGCM(derived).encrypt(nonce[12:], plaintext, associated_data)


def derive(key, label):
    return HKDF(hashes.SHA256(), 32, None, label.encode()).derive(key)


def extract(salt, ikm):
    return hmac.new(salt or bytes(32), ikm, "sha256").digest()


def expand(prk, info, length):
    out, block, i = b"", b"", 1
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([i]), "sha256").digest()
        out, i = out + block, i + 1
    return out[:length]


def hpke_key_pair(ikm):
    suite = b"KEM\0\x20"
    prk = extract(b"", b"HPKE-v1" + suite + b"dkp_prk" + ikm)
    private = expand(prk, u16(32) + b"HPKE-v1" + suite + b"sk", 32)
    private = X25519PrivateKey.from_private_bytes(private)
    return private, private.public_key().public_bytes_raw()


def hpke_seal(public, info, associated_data, plaintext, ephemeral_ikm):
    kem, suite = b"KEM\0\x20", b"HPKE\0\x20\0\x01\0\x02"
    ephemeral, encapsulated = hpke_key_pair(ephemeral_ikm)
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
    prk = extract(b"", b"HPKE-v1" + kem + b"eae_prk" + shared)
    context = encapsulated + public
    secret = expand(prk, u16(32) + b"HPKE-v1" + kem + b"shared_secret" + context, 32)
    labeled = lambda salt, label, ikm: extract(salt, b"HPKE-v1" + suite + label + ikm)
    schedule = b"\0" + labeled(b"", b"psk_id_hash", b"") + labeled(b"", b"info_hash", info)
    prk = labeled(secret, b"secret", b"")
    key = expand(prk, u16(32) + b"HPKE-v1" + suite + b"key" + schedule, 32)
    nonce = expand(prk, u16(12) + b"HPKE-v1" + suite + b"base_nonce" + schedule, 12)
    return encapsulated, AESGCM(key).encrypt(nonce, plaintext, associated_data)


# Formats


def sealed_value(v):
    header = bytes([1, 1, 0, 0]) + u32(v["prefix_key_id"]) + u32(v["dek_version"])
    key = v["key"]
    place = b"sealkv/value/1\0" + v["keyring_id"] + header + u32(len(key)) + key
    ciphertext = xaes_seal(derive(v["dek"], "sealkv/dek/1/encrypt"), v["nonce"], place, v["plaintext"])
    return header + v["nonce"] + ciphertext


def stored(v):
    place = {
        "row": lambda: b"sealkv/row/1" + bytes([v["keyspace"]]) + v["place"],
        "block": lambda: b"sealkv/log/1" + v["place"],
    }[v["kind"]]()
    key = derive(v["storage_key"], "sealkv/storage-key/1/encrypt")
    return b"\1\1" + u32(v["storage_key_id"]) + v["nonce"] + xaes_seal(key, v["nonce"], place, v["plaintext"])


def wrapped_key(parent, kind, keyring_id, parent_place, child_place, secret, nonce):
    name = {2: "kek", 3: "dek"}[kind]
    parent_name = {2: "root", 3: "kek"}[kind]
    commitment = derive(secret, f"sealkv/{name}/1/commit")
    place = b"sealkv/wrapped-key/1\0" + keyring_id + bytes([kind])
    place += b"".join(map(u32, parent_place + child_place)) + commitment
    key = derive(parent, f"sealkv/{parent_name}/1/encrypt")
    return bytes([1, 1, kind]) + commitment + nonce + xaes_seal(key, nonce, place, secret)


def to_slot(public, info, commitment, secret, ephemeral):
    encapsulated, ciphertext = hpke_seal(public, info, commitment, secret, ephemeral)
    return b"\1\1" + encapsulated + ciphertext


def wrapped_root(public, keyring_id, slot_id, version, root, ephemeral):
    info = b"sealkv/root/1\0" + keyring_id + u32(slot_id) + u32(version)
    return to_slot(public, info, derive(root, "sealkv/root/1/commit"), root, ephemeral)


def slot_public(slot_secret):
    return hpke_key_pair(derive(slot_secret, "sealkv/slot/1/x25519"))[1]


def provider_record(kind, key, prologue, context, slot_secret, nonce):
    place = b"sealkv/slot-secret/1\0" + bytes([kind]) + prologue + context
    return prologue + nonce + xaes_seal(key, nonce, place, slot_secret)


def member_key(v, provider):
    slot = v["slot_secret"]
    public = slot_public(slot)
    context = u64(v["member_id"]) + v["directory_id"] + public
    if provider == "file":
        kind, prologue = 1, b"\1\1"
        key = derive(v["key_file"], "sealkv/provider/file/1/encrypt")
    else:
        memory, passes, lanes = 19456, 2, 1
        salt = fixed("salt", 16)
        kind, prologue = 2, b"\1\1" + salt + u32(memory) + u32(passes) + u32(lanes)
        kdf = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory)
        key = derive(kdf.derive(v["passphrase"]), "sealkv/provider/passphrase/1/encrypt")
    record = provider_record(kind, key, prologue, context, slot, fixed("record nonce", 24))
    known = v["keyring_id"] is not None
    body = b"sealkv-member-key" + u16(1) + u64(v["member_id"]) + v["directory_id"]
    body += bytes([known]) + (v["keyring_id"] or bytes(16)) + public + bytes([kind])
    body += u16(len(record)) + record
    others = sorted(map(slot_public, v["other_slot_secrets"]))
    body += u16(len(others)) + b"".join(others) + u16(len(v["storage_keys"]))
    for id, secret in enumerate(v["storage_keys"], 1):
        commitment = derive(secret, "sealkv/storage-key/1/commit")
        info = b"sealkv/storage-key/1\0" + v["directory_id"] + u32(id)
        body += u32(id) + commitment
        for n, reader in enumerate([public] + others):
            body += to_slot(reader, info, commitment, secret, fixed(f"ephemeral {id} {n}", 32))
    nonce = fixed("member.key nonce", 24)
    aead = derive(slot, "sealkv/slot/1/member-key")
    authenticated = body + nonce + xaes_seal(aead, nonce, b"sealkv/member-key/1\0" + body, b"")
    return authenticated + hashlib.sha256(authenticated).digest()


# Files


def plain(value):
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value


def write(name, accepted, refused):
    text = json.dumps(plain({"accepted": accepted, "refused": refused}), indent=1)
    (HERE / f"{name}.json").write_text(text + "\n")


def changed(bytes_, index, value):
    return bytes_[:index] + bytes([value]) + bytes_[index + 1 :]


def write_xaes():
    nonce, c2sp = b"ABCDEFGHIJKLMNOPQRSTUVWX", b"c2sp.org/XAES-256-GCM"
    accepted = [
        dict(name="C2SP, MSB(L) = 0", key=b"\1" * 32, nonce=nonce, associated_data=b"", plaintext=b"XAES-256-GCM",
             sealed=bytes.fromhex("ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271")),
        dict(name="C2SP, MSB(L) = 1", key=b"\3" * 32, nonce=nonce, associated_data=c2sp, plaintext=b"XAES-256-GCM",
             sealed=bytes.fromhex("986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d")),
    ]
    for v in accepted:
        assert xaes_seal(v["key"], v["nonce"], v["associated_data"], v["plaintext"]) == v["sealed"]
    one = dict(accepted[1])
    del one["plaintext"]
    refused = [
        one | dict(name="another key", key=b"\2" * 32),
        one | dict(name="another nonce, first half", nonce=b"X" + nonce[1:]),
        one | dict(name="another nonce, second half", nonce=nonce[:-1] + b"Y"),
        one | dict(name="other associated data", associated_data=b""),
        one | dict(name="a cut tag", sealed=one["sealed"][:-1]),
        one | dict(name="nothing", sealed=b""),
    ]
    write("xaes_256_gcm", accepted, refused)


def write_sealed_value():
    base = dict(keyring_id=fixed("keyring", 16), prefix_key_id=1, dek_version=1, dek=fixed("dek", 32),
                key=b"/registry/pods/default/web", nonce=fixed("value nonce", 24), plaintext=b"a value")
    accepted = [dict(name=name) | base | other for name, other in [
        ("a value under the empty prefix's first key", {}),
        ("an empty value", dict(plaintext=b"")),
        ("a key of one zero byte", dict(key=b"\0")),
        ("the greatest ids", dict(prefix_key_id=2**32 - 1, dek_version=2**32 - 1)),
        ("a value of several blocks", dict(plaintext=fixed("long value", 100))),
    ]]
    for v in accepted:
        v["sealed"] = sealed_value(v)
    good = accepted[0]
    refused = [dict(good) | dict(name=name, reason=reason) | other for name, reason, other in [
        ("moved to another key", "authenticity", dict(key=b"/registry/pods/default/wec")),
        ("moved to a key that is longer", "authenticity", dict(key=good["key"] + b"\0")),
        ("moved to another keyring", "authenticity", dict(keyring_id=fixed("other keyring", 16))),
        ("under another data key", "authenticity", dict(dek=fixed("other dek", 32))),
        ("relabelled as another prefix key's", "authenticity",
         dict(prefix_key_id=2, sealed=changed(good["sealed"], 7, 2))),
        ("relabelled as another version", "authenticity",
         dict(dek_version=2, sealed=changed(good["sealed"], 11, 2))),
        ("a changed ciphertext", "authenticity", dict(sealed=changed(good["sealed"], 40, good["sealed"][40] ^ 1))),
        ("a byte too short", "authenticity", dict(sealed=good["sealed"][:-1])),
        ("shorter than its overhead", "format", dict(sealed=good["sealed"][:51])),
        ("nothing", "format", dict(sealed=b"")),
        ("format 0", "format", dict(sealed=changed(good["sealed"], 0, 0))),
        ("format 2", "format", dict(sealed=changed(good["sealed"], 0, 2))),
        ("suite 2", "format", dict(sealed=changed(good["sealed"], 1, 2))),
        ("a flag", "format", dict(sealed=changed(good["sealed"], 3, 1))),
    ]]
    for v in refused:
        del v["plaintext"], v["nonce"]
    write("sealed_value", accepted, refused)


def write_row():
    base = dict(kind="row", storage_key_id=1, storage_key=fixed("storage key", 32), keyspace=2,
                place=b"row key", nonce=fixed("row nonce", 24), plaintext=b"what a row holds")
    accepted = [dict(name=name) | base | other for name, other in [
        ("a row", {}),
        ("an empty row under an empty key", dict(place=b"", plaintext=b"")),
        ("the greatest storage key id", dict(storage_key_id=2**32 - 1)),
        ("a log block", dict(kind="block", place=b"batch header", keyspace=0)),
    ]]
    for v in accepted:
        v["sealed"] = stored(v)
    good = accepted[0]
    refused = [dict(good) | dict(name=name) | other for name, other in [
        ("moved to another row key", dict(place=b"row kez")),
        ("moved to another keyspace", dict(keyspace=3)),
        ("a row read as a log block", dict(kind="block", place=b"\2row key")),
        ("under a key that is not there", dict(storage_key_id=2)),
        ("under another member's key", dict(storage_key=fixed("other storage key", 32))),
        ("format 2", dict(sealed=changed(good["sealed"], 0, 2))),
        ("suite 2", dict(sealed=changed(good["sealed"], 1, 2))),
        ("shorter than its overhead", dict(sealed=good["sealed"][:45])),
        ("nothing", dict(sealed=b"")),
    ]]
    for v in refused:
        del v["plaintext"], v["nonce"]
    write("row", accepted, refused)


def write_wrapped():
    keyring, root, kek, dek = (fixed(n, l) for n, l in [("keyring", 16), ("root", 32), ("kek", 32), ("dek", 32)])
    slot = fixed("slot", 32)
    root_version, prefix_key_id, dek_version, slot_id = 3, 7, 5, 2
    wrapped_dek = wrapped_key(kek, 3, keyring, [7, 0], [7, 5], dek, fixed("dek nonce", 24))
    ids = dict(keyring_id=keyring, root_version=root_version, prefix_key_id=prefix_key_id,
               dek_version=dek_version, slot_id=slot_id)
    good = ids | dict(
        slot_secret=slot, root=root, kek=kek, dek=dek,
        root_commitment=derive(root, "sealkv/root/1/commit"),
        slot_public_key=slot_public(slot),
        kek_nonce=fixed("kek nonce", 24), dek_nonce=fixed("dek nonce", 24),
        wrapped_root=wrapped_root(slot_public(slot), keyring, slot_id, root_version, root, fixed("root ephemeral", 32)),
        wrapped_kek=wrapped_key(root, 2, keyring, [0, 3], [7, 0], kek, fixed("kek nonce", 24)),
        wrapped_dek=wrapped_dek)
    planted = wrapped_root(slot_public(slot), keyring, slot_id, root_version, fixed("planted", 32), fixed("e", 32))
    commits_to_another = to_slot(
        slot_public(slot), b"sealkv/root/1\0" + keyring + u32(slot_id) + u32(root_version),
        good["root_commitment"], fixed("planted", 32), fixed("e", 32))
    # A DEK under the right key and place, whose commitment names another one.
    commitment = derive(fixed("other dek", 32), "sealkv/dek/1/commit")
    place = b"sealkv/wrapped-key/1\0" + keyring + b"\3" + b"".join(map(u32, [7, 0, 7, 5])) + commitment
    nonce = fixed("dek nonce", 24)
    swapped = b"\1\1\3" + commitment + nonce + xaes_seal(derive(kek, "sealkv/kek/1/encrypt"), nonce, place, dek)
    refused = [dict(good) | dict(name=name, level=level) | other for name, level, other in [
        ("ROOT of another keyring", "root", dict(keyring_id=fixed("other keyring", 16))),
        ("ROOT of another version", "root", dict(root_version=4)),
        ("ROOT of another slot", "root", dict(slot_id=3)),
        ("ROOT with another slot's private half", "root", dict(slot_secret=fixed("other slot", 32))),
        ("a planted ROOT", "root", dict(wrapped_root=planted)),
        ("a planted ROOT under the right commitment", "root", dict(wrapped_root=commits_to_another)),
        ("the reserved hybrid suite", "root", dict(wrapped_root=changed(good["wrapped_root"], 1, 2))),
        ("a KEK under another prefix key id", "kek", dict(prefix_key_id=8)),
        ("a DEK where a KEK belongs", "kek", dict(wrapped_kek=wrapped_dek)),
        ("a KEK of suite 2", "kek", dict(wrapped_kek=changed(good["wrapped_kek"], 1, 2))),
        ("a DEK of another version", "dek", dict(dek_version=6)),
        ("a DEK that is not the one committed to", "dek", dict(wrapped_dek=swapped)),
        ("a DEK a byte too short", "dek", dict(wrapped_dek=wrapped_dek[:-1])),
    ]]
    write("wrapped_key", [dict(name="ROOT, KEK and DEK") | good], refused)


def write_member_key():
    base = dict(member_id=0x8E9E05C52164694D, directory_id=fixed("directory", 16), keyring_id=None,
                slot_secret=fixed("slot", 32), key_file=fixed("key file", 32), passphrase=b"correct horse",
                storage_keys=[fixed("storage key", 32)], other_slot_secrets=[])
    full = dict(keyring_id=fixed("keyring", 16), other_slot_secrets=[fixed("other slot", 32), fixed("third slot", 32)],
                storage_keys=[fixed("storage key", 32), fixed("storage key 2", 32)])
    accepted = [dict(name=name, provider=provider) | base | other for name, provider, other in [
        ("a first start with a key file", "file", {}),
        ("a first start with a passphrase", "passphrase", {}),
        ("two storage keys for three slots", "file", full),
    ]]
    for v in accepted:
        v["bytes"] = member_key(v, v["provider"])
    good = accepted[0]
    one = good["bytes"]

    def resummed(bytes_):
        return bytes_[:-32] + hashlib.sha256(bytes_[:-32]).digest()

    # The attack that HPKE's base mode would allow: a storage key that its author knows, wrapped
    # to the member's public key.
    planted = member_key(good | dict(storage_keys=[fixed("planted", 32)]), "file")
    own_tag = planted[:-72] + one[-72:]
    refused = [dict(name=name, provider=provider, reason=reason, key_file=key, passphrase=b"correct horsf", bytes=b)
               for name, provider, reason, key, b in [
        ("a changed bit", "file", "damaged", good["key_file"], changed(one, 30, one[30] ^ 1)),
        ("a byte too short", "file", "damaged", good["key_file"], one[:-1]),
        ("nothing", "file", "damaged", good["key_file"], b""),
        ("another key file", "file", "wrong key", fixed("other key file", 32), one),
        ("another passphrase", "passphrase", "wrong key", good["key_file"], accepted[1]["bytes"]),
        ("the other provider", "passphrase", "other provider", good["key_file"], one),
        ("a planted storage key", "file", "not authentic", good["key_file"], resummed(own_tag)),
        ("a changed keyring id", "file", "not authentic", good["key_file"],
         resummed(changed(changed(one, 43, 1), 44, 9))),
        ("a changed member id", "file", "wrong key", good["key_file"], resummed(changed(one, 19, 0))),
        ("format 2", "file", "malformed", good["key_file"], resummed(changed(one, 18, 2))),
        ("another file", "file", "malformed", good["key_file"], resummed(changed(one, 0, 0))),
        ("an unknown provider", "file", "malformed", good["key_file"], resummed(changed(one, 92, 9))),
        ("a passphrase that asks for 4 TiB", "passphrase", "provider malformed", good["key_file"],
         resummed(changed(accepted[1]["bytes"], 92 + 3 + 18, 0xFF))),
    ]]
    write("member_key", accepted, refused)


def write_key_table():
    """A table after KeyringInit, a second slot, an acknowledgement, a prefix, a rotation, a close."""
    keyring, root = fixed("keyring", 16), fixed("root", 32)
    slots = [fixed("slot", 32), fixed("other slot", 32)]
    keks = [fixed("kek", 32), fixed("kek 2", 32)]
    deks = {(1, 1): fixed("dek", 32), (2, 1): fixed("dek 2.1", 32), (2, 2): fixed("dek 2.2", 32)}
    roots = [wrapped_root(slot_public(s), keyring, i, 1, root, fixed(f"root ephemeral {i}", 32))
             for i, s in enumerate(slots, 1)]
    kek = {i: wrapped_key(root, 2, keyring, [0, 1], [i, 0], k, fixed(f"kek nonce {i}", 24))
           for i, k in enumerate(keks, 1)}
    dek = {(i, v): wrapped_key(keks[i - 1], 3, keyring, [i, 0], [i, v], k, fixed(f"dek nonce {i}.{v}", 24))
           for (i, v), k in deks.items()}
    commitment = derive(root, "sealkv/root/1/commit")
    prefix = b"/registry/secrets/"
    new_slot = lambda n: u64(n) + bytes([n]) + slot_public(slots[n - 1]) + roots[n - 1]
    changes = [
        ("KeyringInit", 1000, b"\1\1" + keyring + commitment + kek[1] + dek[1, 1] + u32(1) + new_slot(1)),
        ("EnrolSlot", 2000, b"\1\2" + u32(2) + u32(1) + new_slot(2)),
        ("AcknowledgeRoot", 3000, b"\1\3" + u32(1) + u32(1)),
        ("AddPrefix", 4000, b"\1\4" + u32(1) + u32(2) + u32(len(prefix)) + prefix + kek[2] + dek[2, 1]),
        ("Rotate", 5000, b"\1\5" + u32(2) + u32(2) + dek[2, 2]),
        ("CloseVersion", 6000, b"\1\7" + u32(2) + u32(1)),
    ]
    row = lambda n, proven: u32(n) + new_slot(n) + bytes([proven])
    version = lambda i, v, state, ms: u32(v) + bytes([state]) + u64(ms) + dek[i, v]
    table = u16(1) + b"\1" + keyring + u32(1) + commitment + u32(3) + u32(3)
    table += u32(2) + row(1, 1) + row(2, 0)
    before_keys = table
    key = lambda i, prefix, next, *versions: (
        u32(i) + u32(len(prefix)) + prefix + kek[i] + u32(next) + u32(len(versions)) + b"".join(versions))
    first = key(1, b"", 2, version(1, 1, 1, 1000))
    second = key(2, prefix, 3, version(2, 1, 2, 4000), version(2, 2, 1, 5000))
    table += u32(2) + first + second
    values = [sealed_value(dict(keyring_id=keyring, prefix_key_id=i, dek_version=v, dek=k, key=prefix + b"token",
                                nonce=fixed("value nonce", 24), plaintext=b"a value"))
              for (i, v), k in deks.items()]
    slots_at = 63
    accepted = [
        dict(name="no keyring yet", table=u16(1) + b"\0"),
        dict(name="a keyring after six changes", table=table, key=prefix + b"token",
             plaintext=b"a value", sealed_values=values, slot_secrets=slots,
             changes=[dict(kind=k, clock_ms=ms, bytes=b) for k, ms, b in changes]),
    ]
    refused = [dict(name=name, table=b) for name, b in [
        ("nothing", b""),
        ("format 2", changed(table, 1, 2)),
        ("initialised 2", changed(table, 2, 2)),
        ("a byte too many", table + b"\0"),
        ("a byte too few", table[:-1]),
        ("a slot id at its counter", changed(table, 58, 2)),
        ("slots that do not ascend", changed(table, slots_at + 4 + 3, 2)),
        ("slots of one member", changed(table, slots_at + 4 + 128 + 11, 1)),
        ("an unknown provider", changed(table, slots_at + 4 + 12, 9)),
        ("a slot neither proven nor unproven", changed(table, slots_at + 4 + 127, 2)),
        ("no key for the empty prefix", before_keys + u32(1) + second),
        ("two keys for one prefix", before_keys + u32(2) + first + key(2, b"", 2, version(2, 1, 1, 1000))),
        ("a version at its counter", before_keys + u32(1) + key(1, b"", 1, version(1, 1, 1, 1000))),
        ("a prefix key without versions", before_keys + u32(1) + key(1, b"", 1)),
        ("a version neither open nor closed", changed(table, len(table) - 116, 3)),
        ("a prefix key without an open version", changed(table, len(table) - 116, 2)),
    ]]
    write("key_table", accepted, refused)


def write_seeds():
    """What the fuzzers start from: the vectors' bytes, under their names."""
    seeds = {
        "sealed_value": [("sealed_value", lambda v: [v["sealed"]]), ("row", lambda v: [v["sealed"]])],
        # The fuzzer adds a fitting checksum itself.
        "member_key": [("member_key", lambda v: [v["bytes"][:-64]])],
        "key_table": [("key_table", lambda v: [v["table"]] + [c["bytes"] for c in v.get("changes", [])])],
    }
    for target, sources in seeds.items():
        directory = HERE.parent.parent / "fuzz" / "seeds" / target
        directory.mkdir(parents=True, exist_ok=True)
        for name, texts in sources:
            vectors = json.loads((HERE / f"{name}.json").read_text())
            for v in vectors["accepted"]:
                for text in texts(v):
                    digest = hashlib.sha256(bytes.fromhex(text)).hexdigest()[:16]
                    (directory / digest).write_bytes(bytes.fromhex(text))


if __name__ == "__main__":
    write_xaes()
    write_sealed_value()
    write_row()
    write_wrapped()
    write_member_key()
    write_key_table()
    write_seeds()
