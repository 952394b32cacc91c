//! Who calls, and with which version.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client_protocol::wire;
use tonic::{Request, Response, Status};

use crate::caller::{Caller, ClientVersion};
use crate::clock::wall_ms;
use crate::rpc::{Api, derive_suffix};

/// Life of an auth token. Clients renew after half of it.
const TOKEN_LIFE_SECS: u64 = 20 * 60;

impl Api {
    pub(crate) fn hello(&self, request: &Request<()>) -> Result<Response<wire::ClientHelloResponse>, Status> {
        let caller = Caller::of(request)?;
        if caller.version < ClientVersion::OLDEST {
            return Err(Status::failed_precondition(format!(
                "this client is modal {}, and Dorian serves 0.63 and newer; upgrade with `pip install -U modal`",
                caller.version
            )));
        }
        let image_builder_version = caller.version.image_builder_version().to_owned();
        Ok(Response::new(wire::ClientHelloResponse { image_builder_version, ..Default::default() }))
    }

    /// The client decodes the expiry without checking the signature; nothing here trusts this token either.
    pub(crate) fn auth_token(&self) -> wire::AuthTokenGetResponse {
        let expiry = wall_ms() / 1000 + TOKEN_LIFE_SECS;
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let payload = URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{expiry}}}"#));
        let signature = URL_SAFE_NO_PAD.encode(derive_suffix(&self.shared.config.salt, &["auth-token", &payload]));
        wire::AuthTokenGetResponse { token: format!("{header}.{payload}.{signature}") }
    }
}
