//! How a store refuses, and what that means: for the program (an error number) and for its author (a sentence).

use std::time::Duration;

use http::StatusCode;

#[derive(Debug, Clone, thiserror::Error)]
pub enum S3Error {
    /// It did not answer, or not in time.
    #[error("{0}")]
    Unreachable(String),
    /// It was reached, and nothing moved for so long.
    #[error("the store was silent for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("{}", refusal(*status, code, message))]
    Refused {
        status: StatusCode,
        /// The store's own word, such as `NoSuchKey`; empty where it says none (answers without a body).
        code: String,
        message: String,
        /// Where the bucket is, when the store says that it is elsewhere.
        region: Option<String>,
    },
    /// An answer that makes no sense.
    #[error("the store's answer was not understood: {0}")]
    Malformed(String),
}

fn refusal(status: StatusCode, code: &str, message: &str) -> String {
    let hint = match (code, status.as_u16()) {
        ("NoSuchBucket", _) => "; check `bucket_name` and `bucket_endpoint_url`",
        ("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken", _) | (_, 401 | 403) => {
            "; check the mount's `secret` and what it may do"
        }
        ("AuthorizationHeaderMalformed" | "PermanentRedirect", _) => "; check `AWS_REGION` in the mount's `secret`",
        _ => "",
    };
    let said = match (code.is_empty(), message.is_empty()) {
        (true, _) => format!("`{status}`"),
        (false, true) => format!("`{code}`"),
        (false, false) => format!("`{code}`: {}", message.trim_end_matches('.')),
    };
    format!("the store answered {said}{hint}")
}

impl S3Error {
    /// Another try may succeed.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Silent(_) => true,
            Self::Refused { status, code, .. } => {
                status.is_server_error() && *status != StatusCode::NOT_IMPLEMENTED
                    || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(status)
                    || ["SlowDown", "RequestTimeout", "InternalError"].contains(&code.as_str())
            }
            Self::Malformed(_) => false,
        }
    }

    /// The store said nothing: the next request may fare no better.
    pub fn is_no_answer(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Silent(_))
    }

    pub fn is_missing_object(&self) -> bool {
        matches!(self, Self::Refused { status, code, .. }
            if *status == StatusCode::NOT_FOUND && ["", "NoSuchKey", "NotFound"].contains(&code.as_str()))
    }

    pub fn errno(&self) -> i32 {
        match self {
            error if error.is_missing_object() => libc::ENOENT,
            Self::Refused { status: StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED, .. } => libc::EACCES,
            // The object is another one than the one that was opened.
            Self::Refused { status: StatusCode::PRECONDITION_FAILED, .. } => libc::ESTALE,
            _ => libc::EIO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str) -> S3Error {
        let status = StatusCode::from_u16(status).unwrap();
        S3Error::Refused { status, code: code.to_owned(), message: String::new(), region: None }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let again =
            [refused(500, "InternalError"), refused(503, "SlowDown"), refused(429, ""), refused(400, "RequestTimeout")];
        assert!(again.iter().all(S3Error::may_pass) && S3Error::Unreachable("x".to_owned()).may_pass());
        let never = [refused(403, "AccessDenied"), refused(404, "NoSuchBucket"), refused(400, ""), refused(501, "")];
        assert!(!never.iter().any(S3Error::may_pass));
    }

    #[test]
    fn programs_see_the_nearest_error_that_files_have() {
        let numbers =
            [(404, ""), (404, "NoSuchKey"), (404, "NoSuchBucket"), (403, ""), (412, ""), (500, ""), (400, "")];
        let numbers = numbers.map(|(status, code)| refused(status, code).errno());
        use libc::{EACCES, EIO, ENOENT, ESTALE};
        assert_eq!(numbers, [ENOENT, ENOENT, EIO, EACCES, ESTALE, EIO, EIO]);
    }

    #[test]
    fn people_are_told_what_to_check() {
        let text = refused(404, "NoSuchBucket").to_string();
        assert_eq!(text, "the store answered `NoSuchBucket`; check `bucket_name` and `bucket_endpoint_url`");
        assert!(refused(403, "").to_string().contains("secret"));
    }
}
