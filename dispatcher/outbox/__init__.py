"""Everything that a partner's process loads: the events, the tables, and the ways to write one."""
