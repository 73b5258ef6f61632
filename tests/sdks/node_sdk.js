// Makes the calls of a JSON document (standard input) with the SDK that it names, and ends when all are delivered.
// {"sdk", "address", "key", "gzip", "flush_at", "per_second", "calls": [{"kind", "message"}]}

const { setTimeout: sleep } = require("node:timers/promises");

const SDKS = {
  segment({ address, key, flush_at }) {
    const { Analytics } = require("@segment/analytics-node");
    const client = new Analytics({ host: address, writeKey: key, flushAt: flush_at, maxRetries: 10 });
    client.on("error", (error) => fail(error));
    return { client, end: () => client.closeAndFlush({ timeout: 100_000 }) };
  },
  rudderstack({ address, key, flush_at, gzip }) {
    const Analytics = require("@rudderstack/rudder-sdk-node");
    const client = new Analytics(key, { dataPlaneUrl: address, gzip, flushAt: flush_at, logLevel: "none" });
    const end = async () => {
      while (client.queue.length) await client.flush();
      await client.pendingFlush;
    };
    return { client, end };
  },
};

function fail(error) {
  console.error(error);
  process.exit(1);
}

async function main() {
  const spec = JSON.parse(await require("node:stream/consumers").text(process.stdin));
  const { client, end } = SDKS[spec.sdk](spec);
  const start = performance.now();
  for (const [n, { kind, message }] of spec.calls.entries()) {
    if (spec.per_second) await sleep(Math.max(0, start + (1000 * n) / spec.per_second - performance.now()));
    client[kind]({ ...message, timestamp: new Date(message.timestamp) });
  }
  await end();
}

main().catch(fail);
