-- What all of the controller shares. Times are milliseconds since 1970. SQLite keeps BYTEA as it keeps BLOB.
CREATE TABLE database_identity (
	one BIGINT PRIMARY KEY CHECK (one = 1),
	identity BYTEA NOT NULL
);

CREATE TABLE audit (
	number BIGINT PRIMARY KEY,
	time BIGINT NOT NULL,
	actor TEXT NOT NULL,
	action TEXT NOT NULL,
	subject TEXT NOT NULL,
	outcome TEXT NOT NULL
);
