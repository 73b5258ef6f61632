// Runs the dashboard's own state block over histories from stdin and prints what it would show, a JSON line each.
"use strict";
const { readFileSync } = require("node:fs");
const page = readFileSync(process.argv[2], "utf8");
const block = page.match(/<script id="state">([\s\S]*?)<\/script>/)[1];
const Tide = new Function(`${block}; return Tide;`)();

for (const line of readFileSync(0, "utf8").split("\n").filter(Boolean)) {
  const history = JSON.parse(line);
  let answer;
  if (history.call) answer = Tide[history.call](...history.arguments);
  else {
    const view = Tide.create();
    const changed = history.frames.map((frame) => Tide.receive(view, frame));
    const metrics = Object.fromEntries(Tide.ranked(view, history.from_ms).map(({ name, count }) => [name, count]));
    const series = Tide.series(view, history.now_ms, history.minutes).map((point) => point.count);
    answer = { ready: view.ready, changed, metrics, total: Tide.since(view, history.from_ms), series };
  }
  console.log(JSON.stringify(answer));
}
