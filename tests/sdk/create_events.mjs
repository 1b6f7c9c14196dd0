// Creates events with Vercel's client, as the calls on stdin say, and tells on stdout what each came to.
import { readFileSync } from "node:fs";
import { Vercel } from "@vercel/sdk";
import { VercelError } from "@vercel/sdk/models/vercelerror.js";

const { serverURL, calls } = JSON.parse(readFileSync(0, "utf8"));

const outcomeOf = async ({ token, installation, event, options }) => {
  const vercel = new Vercel({ serverURL, bearerToken: token });
  const request = { integrationConfigurationId: installation, requestBody: { event } };
  try {
    return { value: (await vercel.marketplace.createEvent(request, options)) ?? null };
  } catch (error) {
    if (!(error instanceof VercelError)) return { type: error.name };
    return {
      type: error.name,
      status: error.statusCode,
      error: JSON.parse(error.body).error,
      retryAfter: error.headers.get("retry-after"),
    };
  }
};

const outcomes = [];
for (const call of calls) outcomes.push(await outcomeOf(call));
console.log(JSON.stringify(outcomes));
