#!/usr/bin/env python3
"""What applications do with Redis, by redis-py against HOST PORT: optimistic locks, queues, rate limits, pub/sub.

Every part counts what went in and what came out.
"""

import selectors
import socket
import sys
import threading
import time

import redis

HOST, PORT = sys.argv[1], int(sys.argv[2])
SUBSCRIBERS, CHANNELS, MESSAGES = 1000, 10, 50
LIMIT_S = 60


def connect(**more):
    return redis.Redis(host=HOST, port=PORT, socket_timeout=LIMIT_S, **more)


def same(got, wanted, what):
    if got != wanted:
        raise SystemExit(f"{what}: got {got!r:.300}, wanted {wanted!r:.300}")


def together(work, count):
    """Runs work(i) in so many threads; the first failure fails all."""
    failures = []

    def run(i):
        try:
            work(i)
        except BaseException as failure:  # a thread's SystemExit would be lost
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    if failures or any(thread.is_alive() for thread in threads):
        raise SystemExit(f"failed: {failures[:1]}, still running: {sum(t.is_alive() for t in threads)}")


def pipelines():
    """MULTI around every pipeline, redis-py's default: all of it or nothing."""
    client = connect()
    for i in range(200):
        tag = f"{{cart:{i % 20}}}"
        with client.pipeline() as pipe:
            pipe.incr(f"{tag}:n").rpush(f"{tag}:items", i).hset(f"{tag}:h", mapping={"last": i}).mget(f"{tag}:n", f"{tag}:x")
            same(pipe.execute()[3], [b"%d" % (i // 20 + 1), None], "a pipeline")
    with client.pipeline() as pipe:
        try:
            pipe.set("{a}", 1).set("{b}", 2).execute()
            raise SystemExit("a transaction over two slots was executed")
        except redis.RedisError as error:
            same("slot" in str(error).lower() or "EXECABORT" in repr(error) or "discarded" in str(error), True, str(error))
    same([client.exists("{a}"), client.exists("{b}")], [0, 0], "half a transaction")


def optimistic_locks():
    """WATCH, read, MULTI, write, EXEC in a loop: no increment is lost."""
    def work(_):
        client = connect()
        for _ in range(40):
            def change(pipe):
                value = int(pipe.get("{stock}:count") or 0)
                pipe.multi()
                pipe.set("{stock}:count", value + 1)
            client.transaction(change, "{stock}:count")
    together(work, 8)
    same(int(connect().get("{stock}:count")), 320, "increments under WATCH")


def queue():
    """Producers push, consumers block: each job comes out once, in its producer's order."""
    done, lock = [], threading.Lock()

    def work(i):
        client = connect()
        if i < 4:
            for n in range(200):
                client.lpush("{jobs}:todo", f"{i}:{n}")
            return
        while True:
            job = client.blmove("{jobs}:todo", "{jobs}:doing", 1, "RIGHT", "LEFT")
            if job is None:
                return
            with lock:
                done.append(job.decode())
            client.lrem("{jobs}:doing", 1, job)
    together(work, 12)
    same(sorted(done), sorted(f"{i}:{n}" for i in range(4) for n in range(200)), "jobs")
    same(connect().llen("{jobs}:doing"), 0, "jobs under way")


def rate_limit():
    """A Lua limiter, sixteen calls to a pipeline: never more than the limit is let through."""
    client = connect()
    script = client.register_script(
        "local n = redis.call('INCR', KEYS[1]) if n == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end "
        "return n <= tonumber(ARGV[1]) and 1 or 0")
    passed = [0] * 30
    for _ in range(40):
        with client.pipeline(transaction=False) as pipe:
            for user in range(16):
                script(keys=[f"limit:{user % 30}"], args=[25, 600_000], client=pipe)
            for user, ok in enumerate(pipe.execute()):
                passed[user % 30] += ok
    same(passed[:16], [25] * 16, "calls let through")


def pub_sub():
    """Many subscribers, few channels: everyone sees every message of a channel, in its order."""
    chosen, sockets = selectors.DefaultSelector(), []
    for i in range(SUBSCRIBERS):
        s = socket.create_connection((HOST, PORT), timeout=LIMIT_S)
        s.sendall(b"SUBSCRIBE news:%d\r\n" % (i % CHANNELS))
        sockets.append(s)
    for s in sockets:
        same(s.recv(1000).startswith(b"*3\r\n$9\r\nsubscribe"), True, "a subscription")
        s.setblocking(False)
        chosen.register(s, selectors.EVENT_READ, [b""])
    client = connect()
    receivers = set()
    for n in range(MESSAGES):
        with client.pipeline(transaction=n % 2 == 1) as pipe:  # within MULTI, too
            for channel in range(CHANNELS if n % 2 == 0 else 1):
                pipe.publish(f"news:{channel}", f"{n}")
            receivers.update(pipe.execute())
    wanted = {c: b"".join(b"*3\r\n$7\r\nmessage\r\n$6\r\nnews:%d\r\n$%d\r\n%d\r\n" % (c, len(str(n)), n)
                          for n in range(MESSAGES) if c == 0 or n % 2 == 0) for c in range(CHANNELS)}
    deadline, left = time.monotonic() + LIMIT_S, SUBSCRIBERS
    while left and time.monotonic() < deadline:
        for key, _ in chosen.select(1):
            key.data[0] += key.fileobj.recv(65536)
            channel = sockets.index(key.fileobj) % CHANNELS
            if len(key.data[0]) >= len(wanted[channel]):
                same(key.data[0], wanted[channel], "messages of a channel")
                chosen.unregister(key.fileobj)
                left -= 1
    same(left, 0, "subscribers that still wait")
    same(min(receivers) > 0, True, "receivers")


def idle_subscriber():
    """Who does not read what it has subscribed to is closed; nobody else notices."""
    idle = socket.create_connection((HOST, PORT), timeout=LIMIT_S)
    idle.sendall(b"SUBSCRIBE flood\r\n")
    client = connect()
    reader = client.pubsub()
    reader.subscribe("flood")
    same(reader.get_message(timeout=LIMIT_S)["type"], "subscribe", "a subscription")
    text, sent = b"x" * 500_000, 0
    deadline = time.monotonic() + LIMIT_S
    while any(c["addr"] == own_name(idle) for c in client.client_list()):
        same(sent < 400 and time.monotonic() < deadline, True, "an end of who does not read")
        client.publish("flood", text)
        sent += 1
        same(reader.get_message(timeout=LIMIT_S)["data"], text, "a message beside it")
    same(sent > 30, True, "messages before the end")


def own_name(sock):
    return "%s:%d" % sock.getsockname()


def key_space():
    client = connect()
    names = {f"scan:{i}".encode() for i in range(3000)}
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.set(name, 1)
        pipe.execute()
    same(set(client.scan_iter("scan:*", count=100)), names, "SCAN")
    same(set(client.keys("scan:*")), names, "KEYS")


def resp3():
    client = connect(protocol=3)
    client.hset("h3", mapping={"a": 1})
    same(client.hgetall("h3"), {b"a": b"1"}, "HGETALL in RESP3")
    same(client.zadd("z3", {"m": 1.5}), 1, "ZADD")
    same(client.zrange("z3", 0, -1, withscores=True), [[b"m", 1.5]], "scores in RESP3")
    listener = client.pubsub()
    listener.subscribe("three")
    same(listener.get_message(timeout=LIMIT_S)["type"], "subscribe", "a push")
    client.publish("three", "x")
    same(listener.get_message(timeout=LIMIT_S)["data"], b"x", "a message in RESP3")


connect().flushall()
for part in [pipelines, optimistic_locks, queue, rate_limit, pub_sub, idle_subscriber, key_space, resp3]:
    begun = time.monotonic()
    part()
    print(f"{part.__name__}: ok, {time.monotonic() - begun:.1f} s")
