// BullMQ on ioredis against HOST PORT: jobs, delays, retries, a flow of parents and children; each done once.
//
//   node bullmq.mjs HOST PORT
//
// CLIENTS_NODE is the directory the packages were installed in. Keys have a tag: a script's keys must be in one slot.

import { createRequire } from "node:module";

const [HOST, PORT] = [process.argv[2], Number(process.argv[3])];
const require = createRequire(`${process.env.CLIENTS_NODE}/`);
const { Queue, Worker, QueueEvents, FlowProducer } = require("bullmq");
const options = { connection: { host: HOST, port: PORT, maxRetriesPerRequest: null }, prefix: "{bull}" };
const JOBS = 300;

function same(got, wanted, what) {
  if (JSON.stringify(got) !== JSON.stringify(wanted)) {
    throw new Error(`${what}: got ${JSON.stringify(got).slice(0, 300)}, wanted ${JSON.stringify(wanted).slice(0, 300)}`);
  }
}

const stop = setTimeout(() => {
  console.error("not done within 90 s");
  process.exit(1);
}, 90_000);
const queue = new Queue("work", options);
const events = new QueueEvents("work", options);
await events.waitUntilReady();
const seen = [];
const worker = new Worker("work", async (job) => {
  if (job.name === "stubborn" && job.attemptsMade < 2) throw new Error("not yet");
  if (job.name === "double") seen.push(job.data.n);
  return (job.data.n ?? 0) * 2;
}, { ...options, concurrency: 8 });

const numbers = Array.from({ length: JOBS }, (_, n) => n);
const jobs = await queue.addBulk(numbers.map((n) => ({ name: "double", data: { n } })));
same(await Promise.all(jobs.map((job) => job.waitUntilFinished(events, 60_000))), numbers.map((n) => n * 2), "results");
same(seen.sort((a, b) => a - b), numbers, "each job once");
const late = await queue.add("late", { n: 21 }, { delay: 300 });
same(await late.waitUntilFinished(events, 60_000), 42, "a delayed job");
const stubborn = await queue.add("stubborn", { n: 1 }, { attempts: 3, backoff: { type: "fixed", delay: 50 } });
same(await stubborn.waitUntilFinished(events, 60_000), 2, "a job that is tried again");
const flow = await new FlowProducer(options).add({
  name: "parent", queueName: "work", data: { n: 5 },
  children: numbers.slice(0, 5).map((n) => ({ name: "child", queueName: "work", data: { n } })),
});
same(await flow.job.waitUntilFinished(events, 60_000), 10, "a parent of children");
const counts = await queue.getJobCounts("waiting", "active", "failed");
same([counts.waiting, counts.active, counts.failed], [0, 0, 0], "what is left");
clearTimeout(stop);
console.log("bullmq: ok");
process.exit(0);
