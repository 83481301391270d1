//! What to do about an error, in terms of the command's arguments. The libraries say what was
//! found.

use std::io;

use pagestrata::Lsn;
use pagestrata_layers::Error as LayersError;
use pagestrata_postgres::Error as PostgresError;
use pagestrata_postgres_ingest::Error as IngestError;

/// Returns one line: what was found, and what to do now.
pub(crate) fn described(error: &IngestError) -> String {
    match error {
        IngestError::Engine(cause) => format!("{cause}{}", engine_advice(cause)),
        IngestError::Postgres(cause) => format!("{cause}{}", postgres_advice(cause)),
        IngestError::Wal { cause, good_until } => {
            let advice = postgres_advice(cause);
            format!("{cause}{advice}; nothing was ingested{}", up_to(*good_until))
        }
        IngestError::NotIngested { cause, good_until } => {
            format!("{}; nothing was ingested{}", described(cause), up_to(*good_until))
        }
        IngestError::Interrupted { cause } => format!(
            "{}; the timeline is good up to its last flush: mend the cause and ingest again",
            described(cause)
        ),
        IngestError::NoBase { timeline } => format!(
            "timeline {timeline:?} has no base of this command; \
             import one into it or into another --timeline"
        ),
        IngestError::Compressed { what, program, path } => format!(
            "{what} is compressed: unpack it on the way, `{program} {path}| pagestrata import --base -`; \
             one with tablespaces has to be unpacked, all of its archives beside each other"
        ),
        error => format!("{error}{}", ingest_advice(error)),
    }
}

fn up_to(good_until: Option<Lsn>) -> String {
    match good_until {
        Some(lsn) => format!(", --to {lsn} ingests what is good"),
        None => String::new(),
    }
}

fn ingest_advice(error: &IngestError) -> String {
    let advice = match error {
        IngestError::ServerRuns { .. } => "; stop it, or compare them as they are with --running",
        IngestError::NotAtRest { .. } => {
            "; start and stop it, or compare the files as they are with --running"
        }
        IngestError::RestoreTooLarge { .. } => ", or raise the limit with --max-bytes",
        IngestError::Imported { .. } => "; ingest its log, or import into another --timeline",
        IngestError::OtherSystem { .. } => {
            "; follow the one, or import the other into another --timeline"
        }
        IngestError::NoPage { .. } => "; scan lists the pages that there are",
        IngestError::ChecksumsUnknown { is_on, shutdowns, .. } => {
            return format!(
                "; ingest with --checksums-{} LSN, the end of the shutdown checkpoint ({shutdowns}), \
                 or import a new base",
                if *is_on { "on" } else { "off" }
            );
        }
        _ => "",
    };
    advice.to_owned()
}

fn engine_advice(error: &pagestrata::Error) -> &'static str {
    use pagestrata::Error as E;
    match error {
        E::Layers(LayersError::Corrupt(_)) => "; restore the store from a copy",
        E::Layers(error) if is_missing_part(error) => "; restore the store from a copy",
        E::Layers(error) => file_advice(error),
        E::NotYet { .. } => "; choose an Lsn up to that one, or ingest more of the log",
        E::BelowCutoff { .. } => "; choose an Lsn from that one on",
        E::NoTimeline { .. } => "; choose one of them with --timeline",
        E::Locked { .. } => "; wait for it to end",
        _ => "",
    }
}

fn postgres_advice(error: &PostgresError) -> &'static str {
    match error {
        PostgresError::Storage(error) => file_advice(error),
        PostgresError::Corrupt(_) => "; restore the segment from another copy",
        PostgresError::MissingSegment { .. } => "; supply it",
        PostgresError::ArchiveEntry { .. } => "; make it with pg_basebackup -Ft",
        PostgresError::MissingTablespace { .. } => {
            "; supply them: its directory, or its tar beside base.tar"
        }
        PostgresError::StandbyBackup { .. } => "; take one of its primary",
        PostgresError::NoSegments { .. } => "; check the path",
        PostgresError::OtherCluster { .. } => "; supply the log of that cluster",
        PostgresError::OtherTimeline { .. } => "; take the other timeline's segments away",
        PostgresError::SegmentName { .. } => "; take it away",
        PostgresError::Start { .. } => "; supply the segment that it is in, or mend --from",
        PostgresError::UnknownRedo { .. } => {
            "; --allow-unknown-redo keeps such records as they are"
        }
        PostgresError::EndsBefore { .. } => "; supply the missing segments",
        _ => "",
    }
}

pub(crate) fn file_advice(error: &LayersError) -> &'static str {
    match error {
        LayersError::UnsupportedVersion { .. } => "; use the pagestrata that wrote it",
        LayersError::Corrupt(_) => "; restore it from another copy",
        LayersError::Io { cause, .. } => match cause.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "; check the path",
            io::ErrorKind::PermissionDenied => "; check the permissions",
            io::ErrorKind::StorageFull => "; make room",
            _ => "",
        },
        _ => "",
    }
}

/// Whether a file is missing that the store should have. A missing directory is none: opening a
/// store creates it.
pub(crate) fn is_missing_part(error: &LayersError) -> bool {
    let LayersError::Io { operation, cause, .. } = error else { return false };
    cause.kind() == io::ErrorKind::NotFound && *operation != "create directory"
}
