// pg-boss: several workers that each fetch a large batch, which its documentation advises for throughput; it can only poll.
import PgBoss from "pg-boss";
import { Pool } from "undici";

const [command, connectionString, sink] = process.argv.slice(2);
const boss = new PgBoss({ connectionString, max: 10 });
boss.on("error", console.error);
await boss.start();
await boss.createQueue("events");
if (command === "install") {
  await boss.stop({ graceful: false });
  process.exit(0);
}
const http = new Pool(sink, { connections: 64 });
const send = async ({ data: { n } }) => {
  const body = JSON.stringify({ event: { type: "resource.updated", resourceId: `db_${n}` } });
  const headers = { authorization: "Bearer t0ken", "content-type": "application/json" };
  const answer = await http.request({ path: `/events/${n}`, method: "POST", headers, body });
  await answer.body.dump();
  if (answer.statusCode !== 201) throw new Error(`status ${answer.statusCode}`);
};
for (let worker = 0; worker < 4; worker++) {
  await boss.work("events", { batchSize: 4000, pollingIntervalSeconds: 0.5 }, (jobs) => Promise.all(jobs.map(send)));
}
process.on("SIGTERM", () => process.exit(0));
