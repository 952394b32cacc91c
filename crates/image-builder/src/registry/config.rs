//! Which hosts stand for a registry.

use std::collections::{BTreeMap, BTreeSet};

use image_plan::Reference;
use serde::{Deserialize, Serialize};

use super::unpack::LayerLimits;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistryConfig {
    /// Registry name in references (`docker.io`) to hosts asked before it, in order.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Never ask a registry itself, for machines that may only reach their mirrors.
    pub mirrors_only: bool,
    /// Host to user and password, for references whose request brings none.
    pub credentials: BTreeMap<String, Credentials>,
    /// Hosts spoken to by plain HTTP. Loopback always is.
    pub insecure: BTreeSet<String>,
    /// Where registry passwords for Amazon's access keys come from, a URL; Amazon's own place when it is not set.
    pub ecr_endpoint: Option<String>,
    /// What a single layer may unpack to.
    pub layer_limits: LayerLimits,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:***", self.user)
    }
}

/// One host that may have the image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    /// `https://host[:port]`.
    pub url: String,
    pub host: String,
    /// A mirror is asked without the user's credentials: it is another party.
    pub is_mirror: bool,
}

impl RegistryConfig {
    /// Mirrors first, then the registry itself.
    pub(crate) fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let itself = if registry == Reference::DOCKER_HUB { "registry-1.docker.io" } else { registry };
        let mirrors = self.mirrors.get(registry).into_iter().flatten();
        let mut all: Vec<Endpoint> = mirrors.map(|host| self.endpoint(host, true)).collect();
        if !self.mirrors_only {
            all.push(self.endpoint(itself, false));
        }
        all
    }

    fn endpoint(&self, host: &str, is_mirror: bool) -> Endpoint {
        let bare = host.trim_end_matches('/');
        let (scheme, host) = match bare.split_once("://") {
            Some((scheme, host)) => (scheme, host),
            None if self.insecure.contains(bare) || is_loopback(bare) => ("http", bare),
            None => ("https", bare),
        };
        Endpoint { url: format!("{scheme}://{host}"), host: host.to_owned(), is_mirror }
    }
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.starts_with("127.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_asked_before_the_registry_itself() {
        let mut config = RegistryConfig::default();
        config.mirrors.insert("docker.io".to_owned(), vec!["mirror.example".to_owned(), "http://plain:80/".to_owned()]);
        let urls: Vec<String> = config.endpoints("docker.io").into_iter().map(|endpoint| endpoint.url).collect();
        assert_eq!(urls, ["https://mirror.example", "http://plain:80", "https://registry-1.docker.io"]);
        config.mirrors_only = true;
        assert_eq!(config.endpoints("docker.io").len(), 2);
        assert!(config.endpoints("ghcr.io").is_empty());
    }

    #[test]
    fn loopback_is_spoken_to_in_plain_http() {
        assert_eq!(RegistryConfig::default().endpoints("localhost:5000")[0].url, "http://localhost:5000");
        assert_eq!(RegistryConfig::default().endpoints("ghcr.io")[0].url, "https://ghcr.io");
    }
}
