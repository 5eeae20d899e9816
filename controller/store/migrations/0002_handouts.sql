-- Secrets, leases and releases: what a controller hands to hosts.

-- The database knows the key of the values only by its hash, so that a replica with another key says so at its start.
CREATE TABLE secrets_key (
	one BIGINT PRIMARY KEY CHECK (one = 1),
	id BYTEA NOT NULL
);

-- A row stays when its secret is deleted, without its value: versions go upwards for ever.
CREATE TABLE secrets (
	name TEXT PRIMARY KEY,
	version BIGINT NOT NULL,
	hosts TEXT NOT NULL,
	tiers TEXT NOT NULL,
	put BIGINT NOT NULL,
	expires BIGINT NOT NULL,
	value BYTEA
);

CREATE TABLE secrets_held (
	host TEXT NOT NULL,
	name TEXT NOT NULL,
	version BIGINT NOT NULL,
	PRIMARY KEY (host, name)
);

-- A counter stays when its host is removed: it would begin again when the host is named again.
CREATE TABLE lease_counters (
	host TEXT PRIMARY KEY,
	counter BIGINT NOT NULL,
	version BIGINT NOT NULL
);

CREATE TABLE lease_requests (
	host TEXT NOT NULL,
	request BYTEA NOT NULL,
	caller TEXT NOT NULL,
	counter BIGINT NOT NULL,
	PRIMARY KEY (host, request)
);

CREATE TABLE releases (
	kind TEXT NOT NULL,
	name TEXT NOT NULL,
	version BIGINT NOT NULL,
	hosts TEXT NOT NULL,
	canary BIGINT NOT NULL,
	put BIGINT NOT NULL,
	sha256 BYTEA NOT NULL,
	bundle BYTEA NOT NULL,
	PRIMARY KEY (kind, name, version)
);
