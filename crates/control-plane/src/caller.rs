//! Who is calling: a client with the token, or a container through its own socket.

use http::HeaderMap;
use tonic::{Request, Status};
use types::ids::TaskId;

/// Put into every request's extensions by the layer in `server`, after it has checked the credentials.
#[derive(Debug, Clone)]
pub struct Caller {
    pub principal: Principal,
    pub version: ClientVersion,
    pub sdk: Sdk,
    /// `host:port` under which the caller reached us; links that it will open go there too.
    pub authority: String,
    pub idempotency_key: Option<String>,
    /// The caller had no answer to the same request before, or one that said to try again.
    pub is_repeated: bool,
    /// The caller's own interpreter, like `3.11`: what its functions run on unless they say otherwise.
    pub python_minor: Option<String>,
}

/// Which family of clients it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sdk {
    Python,
    /// For JavaScript or Go, which send a blob with a single `PUT`.
    Other,
}

impl Sdk {
    /// From the number that clients send; see `ClientType` of the protocol.
    fn of_client_type(number: &str) -> Self {
        match number {
            // Of libmodal, of JavaScript, of Go.
            "7" | "8" | "9" => Self::Other,
            _ => Self::Python,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    Client,
    Container(TaskId),
}

/// The caller's `modal` package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientVersion(pub u32, pub u32, pub u32);

impl ClientVersion {
    /// The oldest client whose wire we know.
    pub const OLDEST: Self = Self(0, 63, 0);

    /// Reads `1.6.4`, `1.0.5.dev3` and the like; what is missing is zero.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split(['.', '+', '-']).map(|p| p.parse().unwrap_or(0));
        let mut next = || parts.next().unwrap_or(0);
        Self(next(), next(), next())
    }

    /// The newest image builder version that this client knows; asking it for another one is an error there.
    pub fn image_builder_version(self) -> &'static str {
        match self {
            v if v >= Self(1, 1, 0) => "2025.06",
            v if v >= Self(0, 64, 0) => "2024.10",
            _ => "2024.04",
        }
    }

    /// Before 0.64 (and a little after) the runner takes its arguments from the command line, and sends no attempt
    /// number with an output.
    pub fn is_legacy_runner(self) -> bool {
        self < Self(0, 70, 0)
    }
}

impl std::fmt::Display for ClientVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Caller {
    pub fn from_headers(headers: &HeaderMap, principal: Principal, authority: String) -> Self {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        Self {
            principal,
            version: text("x-modal-client-version").map_or(ClientVersion(0, 0, 0), ClientVersion::parse),
            sdk: Sdk::of_client_type(text("x-modal-client-type").unwrap_or_default()),
            authority,
            idempotency_key: text("x-idempotency-key").filter(|key| !key.is_empty()).map(str::to_owned),
            is_repeated: text("x-retry-attempt").is_some_and(|attempt| attempt != "0"),
            python_minor: text("x-modal-python-version").and_then(python_minor),
        }
    }

    /// # Errors
    /// `INTERNAL` when the identifying layer is missing: a fault of ours.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Self>().cloned();
        caller.ok_or_else(|| Status::internal("the request was not identified"))
    }

    /// The task behind a container's request.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` for a client: these calls belong to containers.
    pub fn task(&self) -> Result<&TaskId, Status> {
        match &self.principal {
            Principal::Container(task) => Ok(task),
            Principal::Client => Err(Status::permission_denied("only a container may make this call")),
        }
    }
}

/// `3.11` from `3.11.7`.
fn python_minor(version: &str) -> Option<String> {
    let mut parts = version.split('.');
    let (major, minor) = (parts.next()?.parse::<u8>().ok()?, parts.next()?.parse::<u8>().ok()?);
    Some(format!("{major}.{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(ClientVersion::parse("0.63.99") < ClientVersion::parse("0.73.173"));
        assert!(ClientVersion::parse("1.0.5.dev3") < ClientVersion::parse("1.6.4"));
        assert_eq!(ClientVersion::parse("nonsense"), ClientVersion(0, 0, 0));
    }
}
