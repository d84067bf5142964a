#!/usr/bin/env python3
"""redis-py's RedisCluster against HOST PORT, one of the two proxies that pretend to be a Redis Cluster."""

import sys

import redis
from redis.cluster import RedisCluster

HOST, PORT = sys.argv[1], int(sys.argv[2])
KEYS = 2000


def same(got, wanted, what):
    if got != wanted:
        raise SystemExit(f"{what}: got {got!r}, wanted {wanted!r}")


cluster = RedisCluster(host=HOST, port=PORT, socket_timeout=60)
nodes = cluster.get_primaries()
same(len(nodes), 2, "primaries")
same(all(cluster.flushall().values()), True, "FLUSHALL")
same(cluster.keyslot("foo"), 12182, "the client's slot of foo")
same(cluster.cluster_keyslot("foo"), 12182, "the proxy's slot of foo")
same(cluster.cluster_info()["cluster_state"], "ok", "CLUSTER INFO")
same(len(cluster.cluster_nodes()), 2, "CLUSTER NODES")
before = [cluster.info("stats", target_nodes=node)["total_commands_processed"] for node in nodes]
for number in range(KEYS):
    same(cluster.set(f"key:{number}", number), True, "SET")
for number in range(KEYS):
    same(cluster.get(f"key:{number}"), str(number).encode(), "GET")
after = [cluster.info("stats", target_nodes=node)["total_commands_processed"] for node in nodes]
for was, now in zip(before, after):
    if now - was < KEYS // 2:
        raise SystemExit(f"a proxy has served {now - was} requests of {2 * KEYS}")
pairs = {f"many:{number}": str(number).encode() for number in range(500)}
same(all(cluster.mset_nonatomic(pairs)), True, "MSET by slot")
same(cluster.mget_nonatomic(list(pairs)), list(pairs.values()), "MGET by slot")
pipe = cluster.pipeline()
for number in range(200):
    pipe.incr(f"count:{number % 50}")
same(pipe.execute(), [1 + number // 50 for number in range(200)], "a pipeline")
cluster.sadd("{tag}:1", "a")
cluster.sadd("{tag}:2", "b")
same(cluster.sunion("{tag}:1", "{tag}:2"), {b"a", b"b"}, "SUNION in one slot")
# Any proxy serves any key.
for node in nodes:
    with redis.Redis(host=node.host, port=node.port) as one:
        same([one.get(f"key:{number}") for number in range(20)], [str(n).encode() for n in range(20)], "GET anywhere")
reader = RedisCluster(host=HOST, port=PORT, read_from_replicas=True)
same(reader.get("key:1"), b"1", "GET after READONLY")
print(f"redis-py {redis.__version__} cluster: all ok")
