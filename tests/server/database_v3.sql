-- A database of version 3 as the program of that time made it, with one key, one analysis, one job and its webhook.
BEGIN TRANSACTION;
CREATE TABLE adapters (
	seq INTEGER NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	owner VARCHAR(64) DEFAULT 'local' NOT NULL, 
	base VARCHAR(255) NOT NULL, 
	folder VARCHAR(512) NOT NULL, 
	job_id VARCHAR(64) NOT NULL, 
	is_checkpoint BOOLEAN NOT NULL, 
	created_at FLOAT NOT NULL, 
	PRIMARY KEY (seq), 
	UNIQUE (name), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
CREATE TABLE analyses (
	seq INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	owner VARCHAR(64) NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	wanted VARCHAR(16) DEFAULT 'run' NOT NULL, 
	filename VARCHAR(255) NOT NULL, 
	num_bytes BIGINT NOT NULL, 
	options JSON NOT NULL, 
	metadata JSON NOT NULL, 
	webhook_url TEXT, 
	webhook_secret VARCHAR(128), 
	retention_seconds FLOAT NOT NULL, 
	created_at FLOAT NOT NULL, 
	started_at FLOAT, 
	finished_at FLOAT, 
	expires_at FLOAT, 
	stage VARCHAR(32), 
	progress FLOAT DEFAULT '0' NOT NULL, 
	result TEXT, 
	error JSON, 
	num_starts INTEGER DEFAULT '0' NOT NULL, 
	lease_owner VARCHAR(64), 
	lease_number INTEGER DEFAULT '0' NOT NULL, 
	lease_until FLOAT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (seq), 
	UNIQUE (id)
);
INSERT INTO "analyses" VALUES(1,'analysis-1','ann','succeeded','run','a.mp4',9,'{"model": null}','{"case": "17"}',NULL,NULL,60.0,1.0,NULL,2.0,NULL,NULL,1.0,'{"emotion": {"label": "joy"}}',NULL,0,NULL,0,0.0);
CREATE TABLE api_keys (
	seq INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	owner VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	scopes JSON NOT NULL, 
	note VARCHAR(200) NOT NULL, 
	per_minute INTEGER, 
	created_at FLOAT NOT NULL, 
	expires_at FLOAT, 
	revoked_at FLOAT, 
	PRIMARY KEY (seq), 
	UNIQUE (id)
);
INSERT INTO "api_keys" VALUES(1,'4k1xq0m3c8zt','ann','d','["analyze"]','the shop',NULL,1.0,NULL,NULL);
CREATE TABLE files (
	seq INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	owner VARCHAR(64) DEFAULT 'local' NOT NULL, 
	filename VARCHAR(255) NOT NULL, 
	purpose VARCHAR(32) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	num_bytes BIGINT NOT NULL, 
	created_at FLOAT NOT NULL, 
	expires_at FLOAT, 
	PRIMARY KEY (seq), 
	UNIQUE (id)
);
CREATE TABLE idempotency_keys (
	seq INTEGER NOT NULL, 
	owner VARCHAR(64) NOT NULL, 
	"key" VARCHAR(255) NOT NULL, 
	holder VARCHAR(64) NOT NULL, 
	fingerprint VARCHAR(64), 
	resource_id VARCHAR(64), 
	created_at FLOAT NOT NULL, 
	expires_at FLOAT NOT NULL, 
	PRIMARY KEY (seq)
);
CREATE TABLE installed_adapters (
	seq INTEGER NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	base VARCHAR(512) NOT NULL, 
	folder VARCHAR(4096) NOT NULL, 
	created_at FLOAT NOT NULL, 
	PRIMARY KEY (seq), 
	UNIQUE (name)
);
CREATE TABLE job_checkpoints (
	seq INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	job_id VARCHAR(64) NOT NULL, 
	created_at FLOAT NOT NULL, 
	step INTEGER NOT NULL, 
	model_name VARCHAR(255) NOT NULL, 
	metrics JSON NOT NULL, 
	PRIMARY KEY (seq), 
	UNIQUE (id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
CREATE TABLE job_events (
	seq INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	job_id VARCHAR(64) NOT NULL, 
	created_at FLOAT NOT NULL, 
	level VARCHAR(8) NOT NULL, 
	type VARCHAR(16) NOT NULL, 
	message TEXT NOT NULL, 
	data JSON, 
	PRIMARY KEY (seq), 
	UNIQUE (id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
CREATE TABLE job_metadata (
	job_id VARCHAR(64) NOT NULL, 
	"key" VARCHAR(64) NOT NULL, 
	value VARCHAR(512) NOT NULL, 
	PRIMARY KEY (job_id, "key"), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
CREATE TABLE jobs (
	seq INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	owner VARCHAR(64) DEFAULT 'local' NOT NULL, 
	status VARCHAR(32) NOT NULL, 
	wanted VARCHAR(16) DEFAULT 'run' NOT NULL, 
	base VARCHAR(255) NOT NULL, 
	model_name VARCHAR(255) NOT NULL, 
	training_file VARCHAR(64) NOT NULL, 
	validation_file VARCHAR(64), 
	suffix VARCHAR(64), 
	seed BIGINT NOT NULL, 
	hyperparameters JSON NOT NULL, 
	created_at FLOAT NOT NULL, 
	finished_at FLOAT, 
	estimated_finish FLOAT, 
	trained_tokens BIGINT, 
	error JSON, 
	result_files JSON NOT NULL, 
	progress JSON NOT NULL, 
	lease_owner VARCHAR(64), 
	lease_number INTEGER DEFAULT '0' NOT NULL, 
	lease_until FLOAT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (seq), 
	UNIQUE (id), 
	UNIQUE (model_name)
);
INSERT INTO "jobs" VALUES(1,'ftjob-1','ann','succeeded','run','nano','ft:1','file-1',NULL,NULL,1,'{}',1.0,NULL,NULL,NULL,NULL,'[]','{}',NULL,0,0.0);
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	database_id VARCHAR(64) NOT NULL
);
INSERT INTO "schema_version" VALUES(3,'0123456789abcdef0123456789abcdef');
CREATE TABLE webhook_deliveries (
	seq INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	subject_id VARCHAR(64) NOT NULL, 
	owner VARCHAR(64) NOT NULL, 
	type VARCHAR(64) NOT NULL, 
	body TEXT NOT NULL, 
	url TEXT, 
	secret VARCHAR(128), 
	created_at FLOAT NOT NULL, 
	num_attempts INTEGER DEFAULT '0' NOT NULL, 
	next_at FLOAT, 
	delivered_at FLOAT, 
	last_status INTEGER, 
	last_error VARCHAR(255), 
	PRIMARY KEY (seq), 
	UNIQUE (id)
);
INSERT INTO "webhook_deliveries" VALUES(1,'evt_1','ftjob-1','ann','fine_tuning.job.succeeded','{"id": "evt_1"}',NULL,NULL,1.0,3,4.0,NULL,NULL,NULL);
CREATE INDEX ix_jobs_status ON jobs (status);
CREATE INDEX ix_webhook_deliveries_subject_id ON webhook_deliveries (subject_id);
CREATE INDEX ix_analyses_status ON analyses (status);
CREATE INDEX analyses_of_owner ON analyses (owner, status);
CREATE INDEX ix_analyses_expires_at ON analyses (expires_at);
CREATE UNIQUE INDEX idempotency_key_of_owner ON idempotency_keys (owner, "key");
CREATE INDEX ix_idempotency_keys_resource_id ON idempotency_keys (resource_id);
CREATE INDEX ix_idempotency_keys_expires_at ON idempotency_keys (expires_at);
CREATE INDEX job_events_of_job ON job_events (job_id, seq);
CREATE UNIQUE INDEX job_checkpoints_of_job ON job_checkpoints (job_id, step);
CREATE INDEX ix_adapters_job_id ON adapters (job_id);
COMMIT;
