// ioredis's Cluster against HOST PORT, one of the two proxies that pretend to be a Redis Cluster.
//
//   node cluster.mjs HOST PORT CLIENT
//
// CLIENT is a name of package.json; CLIENTS_NODE is the directory it was installed in.

import { createRequire } from "node:module";

const [HOST, PORT, CLIENT] = [process.argv[2], Number(process.argv[3]), process.argv[4]];
const require = createRequire(`${process.env.CLIENTS_NODE}/`);
const Redis = require(CLIENT);
const KEYS = 2000;

function same(got, wanted, what) {
  if (JSON.stringify(got) !== JSON.stringify(wanted)) {
    throw new Error(`${what}: got ${JSON.stringify(got)}, wanted ${JSON.stringify(wanted)}`);
  }
}

const cluster = new Redis.Cluster([{ host: HOST, port: PORT }]);
try {
  await new Promise((done, failed) => {
    cluster.once("ready", done);
    setTimeout(() => failed(new Error("not ready within 30 s")), 30_000).unref();
  });
  same(cluster.nodes("master").length, 2, "primaries");
  same(await cluster.nodes("master")[0].flushall(), "OK", "FLUSHALL");
  const numbers = Array.from({ length: KEYS }, (_, number) => number);
  same(await Promise.all(numbers.map((n) => cluster.set(`key:${n}`, n))), numbers.map(() => "OK"), "SET");
  same(await Promise.all(numbers.map((n) => cluster.get(`key:${n}`))), numbers.map(String), "GET");
  const pipe = cluster.pipeline();
  for (let n = 0; n < 200; n++) pipe.incr(`{count}:${n % 50}`);
  same((await pipe.exec()).map(([error, reply]) => error ?? reply), Array.from({ length: 200 }, (_, n) => 1 + Math.floor(n / 50)), "a pipeline");
  same(await cluster.mset("{tag}:1", "a", "{tag}:2", "b"), "OK", "MSET in one slot");
  same(await cluster.mget("{tag}:1", "{tag}:2"), ["a", "b"], "MGET in one slot");
  for (const node of cluster.nodes("master")) {
    // Any proxy serves any key.
    same(await Promise.all(numbers.slice(0, 20).map((n) => node.get(`key:${n}`))), numbers.slice(0, 20).map(String), "GET anywhere");
    same((await node.info("stats")).includes("total_commands_processed:"), true, "INFO");
  }
  console.log(`${CLIENT} ${require(`${CLIENT}/package.json`).version} cluster: all ok`);
  cluster.disconnect();
} catch (error) {
  console.error(error);
  process.exit(1);
}
