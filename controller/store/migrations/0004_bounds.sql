-- How many audited steps of each kind the enclave of a host took in an hour (hours since 1970).
CREATE TABLE host_budgets (
	host TEXT NOT NULL,
	action TEXT NOT NULL,
	hour BIGINT NOT NULL,
	entries BIGINT NOT NULL,
	PRIMARY KEY (host, action)
);

-- Of hosts that were removed it is no longer known what they hold.
DELETE FROM secrets_held WHERE host NOT IN (SELECT name FROM hosts);
