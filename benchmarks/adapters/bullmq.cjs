// BullMQ on Redis, from Node: the yardstick outside Python.
//
// Settings: concurrency 100 (its guide "Concurrency" raises it from 1; 50 and 500 were slower here),
// ioredis, removeOnComplete and removeOnFail (its guide "Auto-removal of jobs": Redis does not
// grow). Bulk: queue.addBulk.
// It answers the same commands as producer.py and marks the same board as board.py.
"use strict";

const fs = require("node:fs");
const readline = require("node:readline");
const { Queue, Worker } = require("bullmq");
const IORedis = require("ioredis");

const RECORD = 16;
const CALLERS = 64;
const CHUNK = 1000;
const TEXT = "x".repeat(100);
const CONCURRENCY = Number(process.env.BENCH_CONCURRENCY ?? 100);

const Redis = IORedis.default ?? IORedis;
const connection = new Redis(process.env.BENCH_URL, { maxRetriesPerRequest: null });
const board = fs.openSync(process.env.BENCH_BOARD, "r+");
const record = Buffer.alloc(RECORD);

function runs(job) {
  fs.readSync(board, record, 0, 4, job * RECORD);
  return record.readUInt32LE(0);
}

function mark(job) {
  const count = runs(job) + 1;
  record.writeUInt32LE(count, 0);
  record.writeUInt32LE(process.pid, 4);
  record.writeBigUInt64LE(process.hrtime.bigint(), 8);
  fs.writeSync(board, record, 0, RECORD, job * RECORD);
}

function work() {
  new Worker("bench", async (job) => mark(job.data.n), { connection, concurrency: CONCURRENCY });
}

const options = { removeOnComplete: true, removeOnFail: true };
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const answer = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const now = () => process.hrtime.bigint();

async function oneAtATime(queue, { first, count, pause }) {
  const sent = [];
  for (let n = first; n < first + count; n++) {
    sent.push(Number(now()));
    await queue.add("quick", { n, text: TEXT }, options);
    while (!runs(n)) await sleep(1);
    await sleep((0.5 + Math.random()) * pause * 1000);
  }
  return sent;
}

async function bulk(queue, { first, count }) {
  for (let start = first; start < first + count; start += CHUNK) {
    const end = Math.min(start + CHUNK, first + count);
    const jobs = [];
    for (let n = start; n < end; n++) {
      jobs.push({ name: "quick", data: { n, text: TEXT }, opts: options });
    }
    await queue.addBulk(jobs);
  }
}

async function single(queue, { first, count }) {
  let next = first;
  const caller = async () => {
    while (next < first + count) await queue.add("quick", { n: next++, text: TEXT }, options);
  };
  await Promise.all(Array.from({ length: CALLERS }, caller));
}

async function produce() {
  const queue = new Queue("bench", { connection });
  await queue.waitUntilReady();
  answer({ ready: true });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    if (command.do === "latency") {
      answer({ sent: await oneAtATime(queue, command) });
      continue;
    }
    const begin = Number(now());
    await (command.do === "bulk" ? bulk : single)(queue, command);
    answer({ begin, end: Number(now()) });
  }
  process.exit(0);
}

process.argv[2] === "work" ? work() : produce();
