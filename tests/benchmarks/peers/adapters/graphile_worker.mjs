// graphile-worker as its documentation advises for throughput: a local queue, and completions in batches.
import { Logger, run, runMigrations } from "graphile-worker";
import { Pool } from "undici";

const [command, connectionString, sink] = process.argv.slice(2);
if (command === "install") {
  await runMigrations({ connectionString });
  process.exit(0);
}
const http = new Pool(sink, { connections: 64 });
const send = async ({ n }) => {
  const body = JSON.stringify({ event: { type: "resource.updated", resourceId: `db_${n}` } });
  const headers = { authorization: "Bearer t0ken", "content-type": "application/json" };
  const answer = await http.request({ path: `/events/${n}`, method: "POST", headers, body });
  await answer.body.dump();
  if (answer.statusCode !== 201) throw new Error(`status ${answer.statusCode}`);
};
const preset = { worker: { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } };
const logger = new Logger(() => (level, message) => level === "error" && console.error(message));
const runner = await run({ connectionString, concurrency: 64, preset, logger, taskList: { send }, noHandleSignals: true });
process.on("SIGTERM", () => process.exit(0));
await runner.promise;
