"""One request to Vercel → one `Outcome`. Only this package knows Vercel's headers, statuses and error bodies."""
