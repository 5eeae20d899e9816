-- Hosts, and what their evidence is compared with.

-- A host is known by the key of its parent. Keys are sha256:<hex>; identity is what the first good evidence bound it to.
CREATE TABLE hosts (
	name TEXT PRIMARY KEY,
	tier TEXT NOT NULL,
	caller_key TEXT NOT NULL UNIQUE,
	identity TEXT NOT NULL,
	enclave_key TEXT NOT NULL,
	epoch BYTEA NOT NULL,
	verdict TEXT NOT NULL,
	judged BIGINT NOT NULL,
	attested BIGINT NOT NULL,
	result_expires BIGINT NOT NULL,
	measurements TEXT NOT NULL,
	configuration TEXT NOT NULL,
	ceiling_version BIGINT NOT NULL,
	seen BIGINT NOT NULL,
	agents BIGINT NOT NULL,
	version TEXT NOT NULL,
	policies TEXT NOT NULL
);

CREATE INDEX hosts_by_enclave ON hosts (enclave_key);

-- Challenges that wait for evidence.
CREATE TABLE nonces (
	nonce BYTEA PRIMARY KEY,
	caller TEXT NOT NULL,
	expires BIGINT NOT NULL
);

CREATE INDEX nonces_by_caller ON nonces (caller);

-- Credential activations that wait for their answer.
CREATE TABLE enrolments (
	id BYTEA PRIMARY KEY,
	caller TEXT NOT NULL,
	host TEXT NOT NULL,
	kept BYTEA NOT NULL,
	expires BIGINT NOT NULL
);

CREATE INDEX enrolments_by_caller ON enrolments (caller);

-- The golden measurements in force.
CREATE TABLE measurements (
	one BIGINT PRIMARY KEY CHECK (one = 1),
	version BIGINT NOT NULL,
	list BYTEA NOT NULL
);
