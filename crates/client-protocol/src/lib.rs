//! The wire of the published client: our own `.proto` files (`proto/`, one per resource), the code generated from
//! them, and the few things about the encoding that are not messages. Wire types end at the API edge: the rest of
//! the system speaks the types of `types` and `calls`.

mod passthrough;

pub use passthrough::Passthrough;

/// Generated messages, enums and the service.
#[allow(clippy::all, clippy::pedantic)]
pub mod wire {
    tonic::include_proto!("modal.client");
}

pub use wire::modal_client_client::ModalClientClient;
pub use wire::modal_client_server::{ModalClient, ModalClientServer};
