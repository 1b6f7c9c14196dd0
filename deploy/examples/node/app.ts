// A partner's application with Node, TypeScript and pg: a change and its event are one transaction.
//
// DATABASE_URL=postgresql://… PORT=8080 npm start

import { createServer } from "node:http";
import { Pool } from "pg";

class Refused extends Error {
  constructor(readonly status: number, message: string) {
    super(message);
  }
}

const pool = new Pool({ connectionString: process.env.DATABASE_URL });

/** Renames a database and writes the event that notifies Vercel. */
async function rename(id: string, name: string): Promise<void> {
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    const { rows } = await client.query<{ installation_id: string }>(
      "UPDATE databases SET name = $2 WHERE id = $1 RETURNING installation_id",
      [id, name],
    );
    if (rows.length === 0) throw new Refused(404, "no such database");
    await client.query(
      "INSERT INTO vercel_outbox (installation_id, type, resource_id) VALUES ($1, 'resource.updated', $2)",
      [rows[0].installation_id, id],
    );
    if (name === "") throw new Refused(422, "a database needs a name"); // rolls back the event with the change
    await client.query("COMMIT");
  } catch (error) {
    await client.query("ROLLBACK");
    throw error;
  } finally {
    client.release();
  }
}

const server = createServer(async (request, response) => {
  const url = new URL(request.url ?? "/", "http://localhost");
  const id = decodeURIComponent(url.pathname.replace("/databases/", ""));
  const name = url.searchParams.get("name") ?? "";
  try {
    await rename(id, name);
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ id, name }));
  } catch (error) {
    const status = error instanceof Refused ? error.status : 500;
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify({ error: String(error) }));
  }
});

await pool.query(
  "CREATE TABLE IF NOT EXISTS databases (id text PRIMARY KEY, installation_id text NOT NULL, name text NOT NULL)",
);
server.listen(Number(process.env.PORT ?? 8080), "127.0.0.1");
