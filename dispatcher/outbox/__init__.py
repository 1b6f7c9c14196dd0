"""Everything a partner's process loads: the events, the tables, and the ways to write an event."""
