// A Node.js client against HOST PORT TARGET: every reply is compared with what a model in this process says.
//
//   node node.mjs HOST PORT TARGET CLIENT
//
// TARGET is `redis` (a plain server), or `slots` (a proxy that spreads keys over slots and refuses to join them).
// CLIENT is a name of package.json; CLIENTS_NODE is the directory it was installed in.

import { createRequire } from "node:module";
import { randomBytes } from "node:crypto";
import net from "node:net";

const [HOST, PORT, TARGET, CLIENT] = [process.argv[2], Number(process.argv[3]), process.argv[4], process.argv[5]];
const require = createRequire(`${process.env.CLIENTS_NODE}/`);
const VERSION = require(`${CLIENT}/package.json`).version;
const BIG = 50 * 1024 * 1024;

// ---- One shape for both clients: `call(args)`, `pipeline([args])` giving replies or Error objects, `drop`, `close`.

async function openIoredis(name) {
  const Redis = require(CLIENT);
  const client = new Redis({ host: HOST, port: PORT, connectionName: name });
  client.on("error", () => {}); // the calls report
  return {
    call: async ([command, ...args]) => plain(await client.callBuffer(command, ...args)),
    pipeline: async (commands) => {
      const pipe = client.pipeline();
      for (const [command, ...args] of commands) pipe.callBuffer(command, ...args);
      return (await pipe.exec()).map(([error, reply]) => error ?? plain(reply));
    },
    drop: () => client.stream.destroy(),
    close: () => client.disconnect(),
  };
}

async function openNodeRedis(name, options = { RESP: 2 }) {
  const { createClient, RESP_TYPES } = require(CLIENT);
  const socket = { host: HOST, port: PORT, reconnectStrategy: (tries) => tries < 10 && 50 };
  const client = createClient({ socket, name, ...options });
  client.on("error", () => {});
  await client.connect();
  const typeMapping = { [RESP_TYPES.BLOB_STRING]: Buffer };
  const call = async (args) => plain(await client.sendCommand(args, { typeMapping }));
  return {
    call,
    pipeline: async (commands) =>
      (await Promise.allSettled(commands.map(call))).map((done) => done.reason ?? done.value),
    drop: () => client.sendCommand(["QUIT"]).catch(() => {}),
    close: () => client.destroy(),
  };
}

const open = CLIENT.startsWith("ioredis") ? openIoredis : openNodeRedis;

/** Buffers as strings of a character a byte, which compare and print. */
function plain(reply) {
  if (Buffer.isBuffer(reply)) return reply.toString("latin1");
  return Array.isArray(reply) ? reply.map(plain) : reply;
}

// ---- Checks

function short(value) {
  const text = value instanceof Error ? `error ${value.message}` : JSON.stringify(value) ?? String(value);
  return text.length < 300 ? text : `${text.slice(0, 300)}... (${text.length} characters)`;
}

function same(got, wanted, what) {
  const equal = got === wanted || (typeof got === typeof wanted && JSON.stringify(got) === JSON.stringify(wanted));
  if (!equal || (got instanceof Error) !== (wanted instanceof Error)) {
    throw new Error(`${what}: got ${short(got)}, wanted ${short(wanted)}`);
  }
}

async function refused(code, client, ...args) {
  const got = await client.call(args).catch((error) => error);
  if (!(got instanceof Error) || !got.message.startsWith(code)) {
    throw new Error(`${args}: got ${short(got)}, wanted an error ${code}`);
  }
}

/** Numbers that a failed run can be repeated with. */
function lcg(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const ERROR = new Error("any");

/** What a Redis would answer: each step is a command and its reply, ERROR for an error. */
class Model {
  data = new Map();
  constructor(seed, prefix) {
    this.random = lcg(seed);
    this.prefix = prefix;
  }
  key(kind) {
    return `${this.prefix}:${kind}:${this.random(300)}`;
  }
  value() {
    const bytes = Buffer.alloc([0, 1, 10, 100, 100, 100, 3000][this.random(7)]);
    for (let i = 0; i < bytes.length; i++) bytes[i] = this.random(256);
    return bytes;
  }
  at(kind, empty) {
    const key = this.key(kind);
    if (!this.data.has(key)) this.data.set(key, empty);
    return [key, this.data.get(key)];
  }
  keys() {
    return Array.from({ length: 1 + this.random(20) }, () => this.key("s"));
  }
  step() {
    return STEPS[this.random(STEPS.length)](this);
  }
}

const STEPS = [
  (m) => {
    const [key, value] = [m.key("s"), m.value()];
    m.data.set(key, plain(value));
    return [["SET", key, value], "OK"];
  },
  (m) => {
    const key = m.key("s");
    return [["GET", key], m.data.get(key) ?? null];
  },
  (m) => {
    const [key, value] = [m.key("s"), m.value()];
    m.data.set(key, (m.data.get(key) ?? "") + plain(value));
    return [["APPEND", key, value], m.data.get(key).length];
  },
  (m) => {
    const key = m.key("n");
    m.data.set(key, (m.data.get(key) ?? 0) + 1);
    return [["INCR", key], m.data.get(key)];
  },
  (m) => {
    const [key, fields] = m.at("h", new Map());
    const [field, value] = [`${m.random(20)}`, m.value()];
    const added = fields.has(field) ? 0 : 1;
    fields.set(field, plain(value));
    return [["HSET", key, field, value], added];
  },
  (m) => {
    const [key, field] = [m.key("h"), `${m.random(20)}`];
    return [["HGET", key, field], m.data.get(key)?.get(field) ?? null];
  },
  (m) => {
    const [key, items] = m.at("l", []);
    const value = m.value();
    items.push(plain(value));
    return [["RPUSH", key, value], items.length];
  },
  (m) => {
    const key = m.key("l");
    return [["LRANGE", key, "-5", "-1"], (m.data.get(key) ?? []).slice(-5)];
  },
  (m) => {
    const key = m.key("l");
    return [["GET", key], m.data.has(key) ? ERROR : null];
  },
  (m) => [["NOSUCHCOMMAND", m.key("s")], ERROR],
  (m) => {
    const pairs = m.keys().map((key) => [key, m.value()]);
    for (const [key, value] of pairs) m.data.set(key, plain(value));
    return [["MSET", ...pairs.flat()], "OK"];
  },
  (m) => {
    const keys = m.keys();
    return [["MGET", ...keys], keys.map((key) => m.data.get(key) ?? null)];
  },
  (m) => {
    const keys = m.keys();
    return [["EXISTS", ...keys], keys.filter((key) => m.data.has(key)).length];
  },
  (m) => {
    const keys = [...new Set(m.keys())].slice(0, 5);
    return [[m.random(2) ? "DEL" : "UNLINK", ...keys], keys.filter((key) => m.data.delete(key)).length];
  },
];

async function pipeline(client, model, count) {
  const steps = Array.from({ length: count }, () => model.step());
  const replies = await client.pipeline(steps.map(([command]) => command));
  same(replies.length, count, "replies of a pipeline");
  steps.forEach(([command, wanted], number) => {
    if (wanted === ERROR) same(replies[number] instanceof Error, true, `reply ${number}, ${short(command)}, an error`);
    else same(replies[number], wanted, `reply ${number} of the pipeline, ${short(command)}`);
  });
}

// ---- Parts

async function handshake(client) {
  same(await client.call(["PING"]), "PONG", "PING");
  same(await client.call(["CLIENT", "GETNAME"]), "conformance", "the name given while connecting");
  same(await client.call(["FLUSHALL"]), "OK", "FLUSHALL");
  same(await client.call(["DBSIZE"]), 0, "DBSIZE after FLUSHALL");
}

async function mixed(client) {
  const model = new Model(1, "mixed");
  await pipeline(client, model, 20_000);
  same(await client.call(["DBSIZE"]), model.data.size, "DBSIZE after the pipeline");
}

async function binary(client) {
  const every = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  const lengths = [0, 1, 2, 511, 512, 513, 4095, 4096, 4097, 16383, 16384, 16385, 65535, 65536, 65537, 1 << 20];
  const values = [every, Buffer.from("\r\n"), Buffer.from("$-1\r\n"), ...lengths.map((length) => randomBytes(length))];
  for (const value of values) {
    const key = value.subarray(0, 1000);
    same(await client.call(["SET", key, value]), "OK", `SET of ${value.length} bytes`);
    same(await client.call(["GET", key]), plain(value), `GET of ${value.length} bytes`);
  }
  for (const byte of every) {
    const key = Buffer.from([107, byte, 107]);
    await client.call(["SET", key, Buffer.from([byte])]);
    same(await client.call(["GET", key]), String.fromCharCode(byte), `byte ${byte}`);
  }
}

async function big(client) {
  const part = randomBytes(1 << 20);
  const value = Buffer.concat(Array(BIG >> 20).fill(part));
  const text = plain(value);
  same(await client.call(["SET", "big", value]), "OK", "SET of 50 MB");
  same(await client.call(["STRLEN", "big"]), BIG, "STRLEN of 50 MB");
  same((await client.call(["GET", "big"])) === text, true, "GET of 50 MB gives what was set");
  same((await client.call(["GETRANGE", "big", "17", "10000016"])) === text.slice(17, 10000017), true, "GETRANGE of 10 MB");
  const got = await client.pipeline([["GET", "big"], ["SET", "small", "1"], ["GET", "big"], ["GET", "small"]]);
  same([got[0] === text, got[1], got[2] === text, got[3]], [true, "OK", true, "1"], "50 MB values between small ones");
  same(await client.call(["DEL", "big", "small"]), 2, "DEL");
}

async function manyKeys(client) {
  const keys = Array.from({ length: 5000 }, (_, n) => `many:${n}`);
  const values = keys.map((_, n) => randomBytes(n % 70));
  const texts = values.map(plain);
  same(await client.call(["MSET", ...keys.flatMap((key, n) => [key, values[n]])]), "OK", "MSET of 5,000");
  same(await client.call(["MGET", ...keys]), texts, "MGET of 5,000");
  const twice = keys.slice(0, 500).flatMap((key) => [key, key]);
  same(await client.call(["EXISTS", ...twice]), 1000, "EXISTS counts a repeated key again");
  same(await client.call(["TOUCH", ...keys, "none"]), 5000, "TOUCH");
  same(await client.call(["DEL", ...keys.slice(0, 1000)]), 1000, "DEL of 1,000");
  same(await client.call(["UNLINK", ...keys.slice(500, 2000)]), 1000, "UNLINK of 1,500, 500 of them gone");
  const around = [...Array(10).fill(null), ...texts.slice(2000, 2010)];
  same(await client.call(["MGET", ...keys.slice(1990, 2010)]), around, "MGET after DEL");
}

async function errors(client) {
  const born = await client.call(["CLIENT", "ID"]);
  await client.call(["SET", "text", "x"]);
  await refused("ERR", client, "NOSUCHCOMMAND", "a");
  await refused("WRONGTYPE", client, "LPUSH", "text", "1");
  await refused("ERR wrong number of arguments", client, "GET");
  await refused("ERR value is not an integer", client, "INCR", "text");
  if (TARGET === "slots") {
    await refused("CROSSSLOT", client, "SUNION", ...Array.from({ length: 50 }, (_, n) => `far:${n}`));
    await refused("CROSSSLOT", client, "RENAME", "far:1", "far:2");
    await refused("WRONGTYPE", client, "BLPOP", "text", "0");
  }
  await client.call(["SADD", "{near}:1", "1"]);
  await client.call(["SADD", "{near}:2", "2"]);
  same((await client.call(["SUNION", "{near}:1", "{near}:2"])).sort(), ["1", "2"], "SUNION in one slot");
  same(await client.call(["CLIENT", "ID"]), born, "the connection after errors");
}

async function death(client) {
  await client.call(["SET", "alive", "yes"]);
  const born = await client.call(["CLIENT", "ID"]);
  await client.drop();
  let reply;
  for (let tries = 0; reply !== "yes" && tries < 100; tries++) {
    reply = await client.call(["GET", "alive"]).catch(() => new Promise((done) => setTimeout(done, 20)));
  }
  same(reply, "yes", "GET on a new connection");
  same((await client.call(["CLIENT", "ID"])) !== born, true, "another connection");
  // A peer that vanishes with megabytes of replies unread leaves others alone.
  await client.call(["SET", "heavy", Buffer.alloc(200_000, "x")]);
  for (let number = 0; number < 5; number++) {
    await new Promise((done) => {
      const peer = net.connect(PORT, HOST, () => peer.write("GET heavy\r\n".repeat(100)));
      peer.once("data", () => peer.resetAndDestroy());
      peer.once("close", done);
    });
    same(await client.call(["GET", "alive"]), "yes", "GET beside a death");
  }
}

/** Many connections at once: a reply given to the wrong one is seen by its model. */
async function crowd() {
  const one = async (_, number) => {
    const model = new Model(100 + number, `crowd${number}`);
    const client = await open(`crowd${number}`);
    for (let round = 0; round < 5; round++) await pipeline(client, model, 400);
    client.close();
  };
  await Promise.all(Array.from({ length: 8 }, one));
}

try {
  const client = await open("conformance");
  for (const part of [handshake, mixed, binary, big, manyKeys, errors, death, crowd]) {
    await part(client);
    console.log(`${part.name}: ok`);
  }
  await client.call(["FLUSHALL"]);
  client.close();
  console.log(`${CLIENT} ${VERSION}: all ok`);
} catch (error) {
  console.error(error);
  process.exit(1);
}
