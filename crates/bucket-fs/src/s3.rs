//! The few requests that a file system makes of a store, over HTTP.

mod answers;
mod client;
mod errors;
mod places;
mod progress;
mod shape;
mod sign;
mod target;

#[cfg(test)]
pub use answers::Listed;
pub use answers::{Object, Page};
pub use client::{ListAsk, S3, UPLOAD_PATIENCE};
pub use errors::S3Error;
pub use sign::Keys;
pub use target::Target;
