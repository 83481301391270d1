//! PostgreSQL 15 WAL and base backups as page versions.
