//! What an operator may choose about image builds.

use std::path::PathBuf;

use crate::host::HostEnv;
use crate::registry::RegistryConfig;

#[derive(Debug, Clone)]
pub struct BuilderConfig {
    /// `layers/`, `tmp/`, `cache/` and more are made below it. On a filesystem that overlayfs accepts as upper layer.
    pub data_dir: PathBuf,
    /// Where the operator writes what is chosen, for messages that say what to set.
    pub settings_file: PathBuf,
    /// Mirrors, credentials and hosts without TLS.
    pub registries: RegistryConfig,
    /// Archive for Debian bases and `apt-get` in builds; by default the one in this machine's own apt configuration.
    pub debian_mirror: Option<String>,
    /// Bytes that one `ADD` of a URL may have.
    pub largest_download: u64,
    /// Certificates, proxies and package indexes for builds.
    pub host_env: HostEnv,
}

impl BuilderConfig {
    /// Everything as this machine has it.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            settings_file: "config.toml".into(),
            registries: RegistryConfig::default(),
            // Beyond any file that somebody adds on purpose; it only keeps an endless answer from filling the disk.
            largest_download: 64 << 30,
            debian_mirror: crate::bases::debian::host_mirror(),
            host_env: HostEnv::from_process(),
        }
    }
}
