#!/usr/bin/env python3
"""Celery over HOST PORT: a worker in a process of its own, and a caller; tasks of every kind, each done once.

Keys have a tag, as for a Redis Cluster: a transaction's keys must be in one slot.
"""

import subprocess
import sys

import redis
from celery import Celery, chord, group

HOST, PORT, ROLE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
URL = f"redis://{HOST}:{PORT}/0"
TASKS = 300

app = Celery("tests", broker=URL, backend=URL)
app.conf.update(
    broker_transport_options={"global_keyprefix": "{celery}"},
    result_backend_transport_options={"global_keyprefix": "{celery}"},
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)
store = redis.Redis(host=HOST, port=PORT, decode_responses=True)


@app.task
def add(a, b):
    store.rpush("done", f"{a}+{b}")
    return a + b


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=3)
def stubborn(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries


def same(got, wanted, what):
    if got != wanted:
        raise SystemExit(f"{what}: got {got!r:.300}, wanted {wanted!r:.300}")


def ask():
    results = [add.delay(i, 1) for i in range(TASKS)]
    same([r.get(timeout=60) for r in results], [i + 1 for i in range(TASKS)], "results")
    same(sorted(store.lrange("done", 0, -1)), sorted(f"{i}+1" for i in range(TASKS)), "each task once")
    same(group(add.s(i, i) for i in range(20))().get(timeout=60), [2 * i for i in range(20)], "a group")
    same(chord(add.s(i, 0) for i in range(20))(total.s()).get(timeout=60), sum(range(20)), "a chord")
    same(stubborn.delay().get(timeout=60), 2, "a task that is tried again")
    same(bool(app.control.ping(timeout=10, limit=1)), True, "a ping over pub/sub")
    print("celery: ok")


if ROLE == "worker":
    app.Worker(pool="threads", concurrency=4, loglevel="ERROR").start()
else:
    worker = subprocess.Popen([sys.executable, __file__, HOST, str(PORT), "worker"])
    try:
        ask()
    finally:
        worker.kill()
        worker.wait()
