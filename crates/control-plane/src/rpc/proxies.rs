//! Proxies. There are none; whoever looks one up is told so in the way of a name that is not there, which clients of every
//! kind understand.

use client_protocol::wire;
use tonic::{Response, Status};

use crate::rpc::Api;

impl Api {
    pub(crate) fn proxy_get(
        &self,
        request: &wire::ProxyGetRequest,
    ) -> Result<Response<wire::ProxyGetResponse>, Status> {
        Err(Status::not_found(format!(
            "Proxy '{}' not found: `modal.Proxy` needs proxies, which Dorian does not serve yet",
            request.name
        )))
    }
}
