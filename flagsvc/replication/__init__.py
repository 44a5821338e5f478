"""What keeps the view and the shared cache right: polls, streams, heartbeats, the cache lease, audits, snapshots."""
