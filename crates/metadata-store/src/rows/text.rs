//! Columns of text that stand for something narrower: ids, states, maps. What another program put there that we cannot
//! read is an error that shows the value, never a guess.

use calls::{CallKind, OutcomeStatus};
use rusqlite::Row;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::RowError;
use crate::records::AppState;

/// The column as an id of the kind that `parse` accepts.
pub(super) fn id<T>(row: &Row<'_>, column: &str, parse: fn(&str) -> Option<T>) -> Result<T, RowError> {
    let text: String = row.get(column)?;
    parse(&text).ok_or(RowError::Unreadable { wanted: std::any::type_name::<T>(), value: text })
}

pub(super) fn optional_id<T>(row: &Row<'_>, column: &str, parse: fn(&str) -> Option<T>) -> Result<Option<T>, RowError> {
    let text: Option<String> = row.get(column)?;
    let Some(text) = text else { return Ok(None) };
    parse(&text).map(Some).ok_or(RowError::Unreadable { wanted: std::any::type_name::<T>(), value: text })
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Result<String, RowError> {
    serde_json::to_string(value)
        .map_err(|error| RowError::Sqlite(rusqlite::Error::ToSqlConversionFailure(error.into())))
}

pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<T, RowError> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|_| RowError::Unreadable { wanted: std::any::type_name::<T>(), value: text })
}

/// A closed set of words: both directions from one list.
macro_rules! words {
    ($type:ident, $to:ident, $from:ident, $($word:literal = $variant:ident),+ $(,)?) => {
        pub(super) fn $to(value: $type) -> &'static str {
            match value {
                $($type::$variant => $word,)+
            }
        }

        pub(super) fn $from(row: &Row<'_>, column: &str) -> Result<$type, RowError> {
            let text: String = row.get(column)?;
            match text.as_str() {
                $($word => Ok($type::$variant),)+
                _ => Err(RowError::Unreadable { wanted: stringify!($type), value: text }),
            }
        }
    };
}

words!(
    AppState,
    app_state_word,
    app_state,
    "initializing" = Initializing,
    "ephemeral" = Ephemeral,
    "detached" = Detached,
    "detached_disconnected" = DetachedDisconnected,
    "deployed" = Deployed,
    "stopping" = Stopping,
    "stopped" = Stopped,
);
words!(CallKind, call_kind_word, call_kind, "unary" = Unary, "map" = Map);
words!(
    OutcomeStatus,
    status_word,
    status,
    "success" = Success,
    "failure" = Failure,
    "terminated" = Terminated,
    "timeout" = Timeout,
    "init_failure" = InitFailure,
    "internal_failure" = InternalFailure,
);
