#!/usr/bin/env python3
"""redis-py against HOST PORT TARGET: every reply is compared with what a model in this process says.

TARGET is `redis` (a plain server), or `slots` (a proxy that spreads keys over slots and refuses to join them).
"""

import os
import random
import socket
import struct
import sys
import threading

import redis

HOST, PORT, TARGET = sys.argv[1], int(sys.argv[2]), sys.argv[3]
# The model knows the replies of RESP2; since version 8 redis-py asks for 3 unless told.
OPTIONS = {} if int(redis.__version__.split(".")[0]) < 8 else {"protocol": 2}
BIG = 50 * 1024 * 1024


def connect(**more):
    return redis.Redis(host=HOST, port=PORT, socket_timeout=60, **OPTIONS, **more)


def same(got, wanted, what):
    if got != wanted:
        raise SystemExit(f"{what}: got {short(got)}, wanted {short(wanted)}")


def short(value):
    text = repr(value)
    return text if len(text) < 300 else f"{text[:300]}... ({len(text)} characters)"


def refused(code, call, *args):
    """The call must answer an error that starts with `code`, and nothing worse."""
    try:
        got = call(*args)
    except redis.ResponseError as error:
        # Of some errors redis-py takes the code off, and says it by the exception's class.
        said = f"{type(error).__name__} {error}".upper()
        if code != "ERR" and code.upper() not in said:
            raise SystemExit(f"{short(args)}: the error is {said}, wanted {code}") from error
        return
    raise SystemExit(f"{short(args)}: got {short(got)}, wanted an error {code}")


class Model:
    """What a Redis would answer: strings, counters, hashes, lists, sets."""

    def __init__(self, seed, prefix):
        self.random = random.Random(seed)
        self.prefix = prefix
        self.data = {}

    def key(self, kind):
        return f"{self.prefix}:{kind}:{self.random.randrange(300)}"

    def value(self):
        return self.random.randbytes(self.random.choice((0, 1, 10, 100, 100, 100, 3000)))

    def step(self):
        """One command and its reply; an exception's class stands for an error."""
        return getattr(self, "do_" + self.random.choice(STEPS))()

    def do_set(self):
        key, value = self.key("s"), self.value()
        self.data[key] = value
        return ("SET", key, value), True

    def do_get(self):
        key = self.key("s")
        return ("GET", key), self.data.get(key)

    def do_append(self):
        key, value = self.key("s"), self.value()
        self.data[key] = self.data.get(key, b"") + value
        return ("APPEND", key, value), len(self.data[key])

    def do_strlen(self):
        key = self.key("s")
        return ("STRLEN", key), len(self.data.get(key, b""))

    def do_incr(self):
        key = self.key("n")
        self.data[key] = self.data.get(key, 0) + 1
        return ("INCR", key), self.data[key]

    def do_hset(self):
        key, field, value = self.key("h"), str(self.random.randrange(20)).encode(), self.value()
        fields = self.data.setdefault(key, {})
        new = field not in fields
        fields[field] = value
        return ("HSET", key, field, value), int(new)

    def do_hgetall(self):
        key = self.key("h")
        return ("HGETALL", key), dict(self.data.get(key, {}))

    def do_rpush(self):
        key, value = self.key("l"), self.value()
        items = self.data.setdefault(key, [])
        items.append(value)
        return ("RPUSH", key, value), len(items)

    def do_lrange(self):
        key = self.key("l")
        return ("LRANGE", key, -5, -1), list(self.data.get(key, [])[-5:])

    def do_sadd(self):
        key, member = self.key("z"), self.random.randrange(50)
        members = self.data.setdefault(key, set())
        new = member not in members
        members.add(member)
        return ("SADD", key, member), int(new)

    def do_wrongtype(self):
        key = self.key("l")
        wanted = redis.ResponseError if key in self.data else None
        return ("GET", key), wanted

    def do_unknown(self):
        return ("NOSUCHCOMMAND", self.key("s")), redis.ResponseError

    def do_mset(self):
        pairs = {self.key("s"): self.value() for _ in range(self.random.randint(1, 20))}
        self.data.update(pairs)
        return ("MSET", *[x for pair in pairs.items() for x in pair]), True

    def do_mget(self):
        keys = [self.key("s") for _ in range(self.random.randint(1, 20))]
        return ("MGET", *keys), [self.data.get(key) for key in keys]

    def do_exists(self):
        keys = [self.key("s") for _ in range(self.random.randint(1, 20))]
        return ("EXISTS", *keys), sum(key in self.data for key in keys)

    def do_del(self):
        name = self.random.choice(("DEL", "UNLINK"))
        keys = {self.key("s") for _ in range(self.random.randint(1, 5))}
        return (name, *keys), sum(self.data.pop(key, None) is not None for key in keys)


STEPS = [name[3:] for name in dir(Model) if name.startswith("do_")]


def pipeline(client, model, count):
    pipe = client.pipeline(transaction=False)
    commands, wanted = [], []
    for _ in range(count):
        command, reply = model.step()
        commands.append(command)
        wanted.append(reply)
        pipe.execute_command(*command)
    replies = pipe.execute(raise_on_error=False)
    same(len(replies), count, "replies of a pipeline")
    for number, (command, got, want) in enumerate(zip(commands, replies, wanted)):
        if want is redis.ResponseError:
            same(isinstance(got, redis.ResponseError), True, f"reply {number}, {short(command)}: {short(got)}: an error")
        else:
            same(got, want, f"reply {number} of the pipeline, {short(command)}")


def handshake():
    if OPTIONS:
        same(redis.Redis(host=HOST, port=PORT, protocol=3).ping(), True, "PING in RESP3")
    client = connect(client_name="conformance")
    same(client.ping(), True, "PING")
    same(client.client_getname() in ("conformance", b"conformance"), True, "the name given while connecting")
    same(client.echo("x"), b"x", "ECHO")
    same(client.flushall(), True, "FLUSHALL")
    same(client.dbsize(), 0, "DBSIZE after FLUSHALL")
    return client


def mixed(client):
    model = Model(1, "mixed")
    pipeline(client, model, 20_000)
    same(client.dbsize(), len(model.data), "DBSIZE after the pipeline")


def binary(client):
    every = bytes(range(256))
    lengths = [0, 1, 2, 511, 512, 513, 4095, 4096, 4097, 16383, 16384, 16385, 65535, 65536, 65537, 1 << 20]
    source = random.Random(2)
    for value in [every, b"\r\n", b"$-1\r\n", *map(source.randbytes, lengths)]:
        same(client.set(value[:1000], value), True, f"SET of {len(value)} bytes")
        same(client.get(value[:1000]), value, f"GET of {len(value)} bytes")
    for byte in every:
        key = b"k" + bytes([byte]) + b"k"
        client.set(key, bytes([byte]))
        same(client.get(key), bytes([byte]), f"byte {byte}")


def big(client):
    value = os.urandom(1 << 20) * (BIG >> 20)
    same(client.set("big", value), True, "SET of 50 MB")
    same(client.strlen("big"), BIG, "STRLEN of 50 MB")
    same(client.get("big") == value, True, "GET of 50 MB gives what was set")
    same(client.getrange("big", BIG - 100_000, BIG), value[-100_000:], "GETRANGE of 50 MB")
    same(client.getrange("big", 17, 10_000_016) == value[17:10_000_017], True, "GETRANGE of 10 MB")
    pipe = client.pipeline(transaction=False)
    pipe.get("big").set("small", "1").get("big").get("small").mget("small", "big", "none")
    got = pipe.execute()
    same(
        [got[0] == value, got[1], got[2] == value, got[3], got[4] == [b"1", value, None]],
        [True, True, True, b"1", True],
        "50 MB values between small ones",
    )
    same(client.delete("big", "small"), 2, "DEL")


def many_keys(client):
    pairs = {f"many:{n}": os.urandom(n % 70) for n in range(5_000)}
    keys = list(pairs)
    same(client.mset(pairs), True, "MSET of 5,000")
    same(client.mget(keys), list(pairs.values()), "MGET of 5,000")
    twice = [key for key in keys[:500] for _ in (1, 2)]
    same(client.mget(twice), [pairs[key] for key in twice], "MGET with each key twice")
    same(client.exists(*twice), 1000, "EXISTS counts a repeated key again")
    same(client.touch(*keys, "none"), 5_000, "TOUCH")
    same(client.delete(*keys[:1000]), 1000, "DEL of 1,000")
    same(client.unlink(*keys[500:2000]), 1000, "UNLINK of 1,500, 500 of them gone")
    same(client.mget(keys[1990:2010]), [None] * 10 + list(pairs.values())[2000:2010], "MGET after DEL")
    same(client.exists(*keys), 3_000, "EXISTS of 5,000")


def errors(client):
    with connect(single_connection_client=True) as one:
        born = one.client_id()
        one.set("text", "x")
        refused("ERR", one.execute_command, "NOSUCHCOMMAND", "a")
        refused("WRONGTYPE", one.lpush, "text", 1)
        refused("ERR", one.execute_command, "GET")
        refused("value is not an integer", one.incr, "text")
        if TARGET == "slots":
            refused("CROSSSLOT", one.sunion, [f"far:{n}" for n in range(50)])
            refused("CROSSSLOT", one.execute_command, "RENAME", "far:1", "far:2")
            refused("WRONGTYPE", one.execute_command, "BLPOP", "text", 0)
        one.sadd("{near}:1", 1)
        one.sadd("{near}:2", 2)
        same(one.sunion(["{near}:1", "{near}:2"]), {b"1", b"2"}, "SUNION in one slot")
        same(one.get("text"), b"x", "GET after errors")
        same(one.client_id(), born, "the connection after errors")


def death(client):
    client.set("alive", "yes")
    same(client.get("alive"), b"yes", "GET before the death")
    client.connection_pool.disconnect()
    same(client.get("alive"), b"yes", "GET on a new connection")
    # Peers that vanish with megabytes of replies unread leave others alone.
    client.set("heavy", b"x" * 200_000)
    for _ in range(5):
        peer = socket.create_connection((HOST, PORT))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.sendall(b"GET heavy\r\n" * 100)
        peer.recv(1000)
        peer.close()
        same(client.get("alive"), b"yes", "GET beside a death")


def crowd():
    """Many connections at once: a reply given to the wrong one is seen by its model."""
    faults = []

    def one(number):
        try:
            model = Model(100 + number, f"crowd{number}")
            with connect() as client:
                for _ in range(5):
                    pipeline(client, model, 400)
        except BaseException as error:  # a thread's SystemExit would be lost
            faults.append(f"connection {number}: {error!r}")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same(faults, [], "eight connections")


client = handshake()
for part in (mixed, binary, big, many_keys, errors, death):
    part(client)
    print(f"{part.__name__}: ok", flush=True)
crowd()
client.flushall()
print(f"redis-py {redis.__version__}: all ok")
