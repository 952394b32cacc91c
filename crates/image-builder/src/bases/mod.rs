//! Where FROM's image comes from: a registry when one can be reached, else Debian by mmdebstrap for the references that
//! are known to be Debian (`debian:...`, `python:3.11...`, `python:3.13...`).

pub(crate) mod debian;
mod resolve;
pub(crate) mod well_known;
